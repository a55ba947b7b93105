// The review page. Texts come from a language model: they are put in as text, never as markup.

import { List } from "/list.js";

// The token stands behind the # of the address, and for a reload where no other port can read it.
const TOKEN = location.hash.slice(1) || sessionStorage.getItem("reclap-token") || "";
sessionStorage.setItem("reclap-token", TOKEN);
addEventListener("hashchange", () => location.reload()); // the address of a newer review
const $ = (id) => document.getElementById(id);
const write = (id, text) => ($(id).querySelector("bdi") ?? $(id)).replaceChildren(visible(text));

// Spell out what cannot be seen or turns the direction of writing.
const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

let data; // what /items says
let shown = []; // indices of the items that pass the filters, in the order of the review
let at = 0; // which of them is on the card
let clip = 0; // which sound of its label
let line = Promise.resolve(); // decisions go one after the other
let asking = false;

const list = new List($("list"), $("rows"), drawRow, go);
const item = () => data.items[shown[at]];
const labelOf = (x) => data.labels[x.label];

// ---- The server ----------------------------------------------------------------------------

async function call(path, options) {
  let answer;
  try {
    const headers = { ...options?.headers, "X-Reclap-Token": TOKEN };
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch {
    throw new Error("No answer: is reclap review still running? Decisions until now are saved.");
  }
  const body = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(body.error), { stale: answer.status === 409 });
  return body;
}

async function load() {
  const index = shown[at];
  data = await call("/items");
  document.title = `${data.name} · reclap review`;
  write("name", data.file);
  fillFilters();
  filter(index);
}

// Decide something: one after the other, each with the revision that is known by then.
function decide(request) {
  line = line.then(async () => {
    try {
      await send(request);
    } catch (error) {
      say(error.message);
      if (error.stale) await refresh().catch((again) => say(again.message));
      if (request.items?.length === 1) show(request.items);
    }
  });
}

async function send(request) {
  const revision = data.revision;
  const body = JSON.stringify({ ...request, revision });
  const headers = { "Content-Type": "application/json" };
  const answer = await call("/decide", { method: "POST", headers, body });
  if (answer.revision > data.revision + 1) return load(); // somebody else decided meanwhile
  if (answer.revision < data.revision) return; // an answer that /items has overtaken
  for (const [index, state] of Object.entries(answer.changed)) Object.assign(data.items[index], state);
  const { changed, ...now } = answer;
  Object.assign(data, now);
  const indices = Object.keys(changed).map(Number);
  if ((request.do === "undo" || request.do === "redo") && indices.length) show(indices);
  draw();
  if (data.problem) say(`The file could not be written: ${data.problem}. Decisions are kept beside it.`);
}

async function refresh() {
  await load();
  say("Something was decided in another window meanwhile. This page is up to date again; your last key did nothing.");
}

// ---- Filters -------------------------------------------------------------------------------

function options(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => new Option(visible(text), value)));
  select.value = before;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function fillFilters() {
  const checks = new Map();
  for (const { flags } of data.items) {
    for (const name of new Set(flags.map(checkOf))) checks.set(name, (checks.get(name) ?? 0) + 1);
  }
  const named = [...checks].sort().map(([name, count]) => [`=${name}`, `${name} (${count})`]);
  options($("flag"), [["", "flagged or not"], ["some", "with a flag"], ["none", "without flags"], ...named]);
  options($("status"), [["", "any status"], ["new", "undecided"], ["accepted", "accepted"], ["rejected", "rejected"]]);
  options($("label"), [["", `all ${data.labels.length} labels`], ...data.labels.map((x, n) => [n, x.name])]);
  $("label").hidden = data.items[0].kind === "rewrite"; // there each caption is one
}

const checkOf = (flag) => flag.split(":", 1)[0];

function passes(x, words) {
  const [label, status, flag] = ["label", "status", "flag"].map((id) => $(id).value);
  if (label !== "" && x.label !== Number(label)) return false;
  if (status !== "" && x.status !== status) return false;
  if (flag === "some" && !x.flags.length) return false;
  if (flag === "none" && x.flags.length) return false;
  if (flag.startsWith("=") && !x.flags.some((f) => checkOf(f) === flag.slice(1))) return false;
  const text = `${labelOf(x).name}\n${x.text}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

// Take the items that pass, and stay at `index` if it is among them.
function filter(index = shown[at]) {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = data.queue.filter((i) => passes(data.items[i], words));
  list.fill(shown);
  at = Math.max(0, shown.indexOf(index));
  draw();
  list.mark(at);
}

// Bring one of these items onto the card, past the filters if they hide all of them.
function show(indices) {
  const known = new Set(shown);
  const index = indices.includes(shown[at]) ? shown[at] : indices.find((i) => known.has(i)) ?? indices[0];
  if (known.has(index)) return go(shown.indexOf(index));
  for (const id of ["search", "label", "status", "flag"]) $(id).value = "";
  filter(index);
}

function bulk() {
  return shown.filter((i) => data.items[i].status === "new" && !data.items[i].flags.length);
}

function acceptAll() {
  const items = bulk();
  const few = shown.length < data.items.length ? " that the filters show" : "";
  write("question", `Accept ${items.length} undecided texts without flags${few}? One undo takes it back.`);
  $("confirm").returnValue = "";
  $("confirm").showModal();
  $("confirm").onclose = () => $("confirm").returnValue === "yes" && decide({ do: "accept", items });
}

// ---- Drawing -------------------------------------------------------------------------------

function drawRow(row, index) {
  const x = data.items[index];
  const state = x.status === "new" && x.flags.length ? "flagged" : x.status;
  row.className = `row ${state}`;
  const [text, label] = row.querySelectorAll("bdi");
  text.textContent = visible(x.text);
  const name = visible(labelOf(x).name);
  label.textContent = x.kind === "description" ? `${name} — description` : name;
}

function draw() {
  drawCounts();
  $("card").hidden = !shown.length;
  $("nothing").hidden = Boolean(shown.length);
  if (shown.length) drawCard();
  list.render();
}

function drawCounts() {
  const count = { new: 0, accepted: 0, rejected: 0, flagged: 0 };
  for (const { status, flags } of data.items) {
    count[status]++;
    if (status === "new" && flags.length) count.flagged++;
  }
  const all = data.items.length;
  const done = all - count.new;
  write("counts", `${done} of ${all} decided · ${count.flagged} flagged to do`);
  $("counts").title = `${count.accepted} accepted, ${count.rejected} rejected`;
  for (const name of ["accepted", "rejected"]) $(name).style.width = `${(100 * count[name]) / all}%`;
  $("progress").setAttribute("aria-valuenow", Math.round((100 * done) / all));
  $("undo").disabled = !data.can_undo;
  $("redo").disabled = !data.can_redo;
  const plain = bulk().length;
  write("bulk", `Accept ${plain} unflagged…`);
  $("bulk").disabled = !plain;
}

let drawn; // the item whose surroundings the card shows, and its text
function drawCard() {
  const x = item();
  const label = labelOf(x);
  const parent = x.parent === null ? null : data.items[x.parent];
  write("kind", { description: "Description of", prompt: "Caption for", rewrite: "Rewrite of" }[x.kind]);
  write("place", `${at + 1} of ${shown.length} · ${{ new: "undecided" }[x.status] ?? x.status}`);
  write("of", label.name);
  $("definition").hidden = !label.definition;
  write("definition", label.definition);
  $("about").hidden = !parent;
  if (parent) write("about", parent.text);
  $("dropped").hidden = parent?.status !== "rejected";
  write("text", x.text);
  $("text").className = x.status === "new" && x.flags.length ? "flagged" : x.status;
  $("edited").hidden = !x.edited_from;
  write("edited", x.edited_from);
  $("flags").replaceChildren(...x.flags.map(flagLine));
  $("reopen").disabled = x.status === "new";
  $("ask").disabled = asking;
  $("ask").title = data.can_ask ? "" : "reclap review was started without --ask.";
  $("ask").classList.toggle("absent", !data.can_ask);
  if (drawn !== `${shown[at]} ${x.text}`) {
    drawn = `${shown[at]} ${x.text}`;
    drawClip(0);
    lookAround();
  }
}

function flagLine(flag) {
  const entry = document.createElement("li");
  const name = document.createElement("b");
  const rest = document.createElement("bdi");
  name.textContent = visible(checkOf(flag));
  rest.textContent = visible(flag.slice(checkOf(flag).length + 1));
  entry.append(name, " ", rest);
  return entry;
}

function drawClip(number) {
  const { clips, key } = labelOf(item());
  clip = clips ? number % clips : 0;
  $("clips").hidden = !clips;
  $("clip").hidden = clips < 2;
  write("which", clips > 1 ? `${clip + 1} of ${clips}` : "");
  const source = clips ? `/clip?label=${item().label}&clip=${clip}&key=${key}` : "";
  if (($("player").getAttribute("src") ?? "") === source) return;
  $("player").pause();
  if (source) $("player").src = source;
  else $("player").removeAttribute("src");
}

// Ask for the nearest texts once the reviewer stays, and again until all texts are compared.
let timer;
function lookAround() {
  $("near").classList.add("old");
  clearTimeout(timer);
  timer = setTimeout(askNearest, 150);
}

async function askNearest() {
  const index = shown[at];
  const found = await call(`/nearest?item=${index}`).catch(() => null);
  if (!found || index !== shown[at]) return;
  $("near").classList.remove("old");
  drawNear("other", found.other);
  drawNear("own", found.own);
  const isCloser = found.other && found.own && found.other.similarity > found.own.similarity;
  $("other").classList.toggle("closer", Boolean(isCloser));
  const isAll = found.share === 1;
  const share = isAll ? "" : `${Math.floor(100 * found.share)} % of all texts compared so far`;
  write("share", found.problem ? `Texts cannot be compared: ${found.problem}` : share);
  if (!isAll && !found.problem) timer = setTimeout(askNearest, 2000);
}

function drawNear(id, near) {
  $(id).hidden = !near;
  if (!near) return;
  const x = data.items[near.index];
  const unit = x.kind === "rewrite" ? "caption" : "label";
  const title = id === "own" ? `The same ${unit}` : `Another ${unit}: ${labelOf(x).name}`;
  $(id).querySelector("b").textContent = visible(title);
  write(id, x.text);
  $(id).querySelector("meter").value = near.similarity;
  $(id).querySelector("output").value = near.similarity.toFixed(2);
}

let hiding;
function say(text) {
  write("toast", text);
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("toast").hidden = true), 7000);
}

// ---- What a person does --------------------------------------------------------------------

function go(index) {
  if (!shown.length) return;
  endEdit();
  at = Math.max(0, Math.min(index, shown.length - 1));
  draw();
  list.mark(at);
}

function judge(what) {
  if (!shown.length) return;
  decide({ do: what, items: [shown[at]] });
  if (what !== "reopen") go(at + 1); // at once: the next key is for the next item
}

function startEdit() {
  if (!shown.length) return;
  $("editor").hidden = false;
  $("text").hidden = $("actions").hidden = true;
  $("draft").value = item().text;
  $("draft").focus();
}

function endEdit() {
  $("editor").hidden = true;
  $("text").hidden = $("actions").hidden = false;
  $("draft").blur();
}

function keepEdit() {
  const text = $("draft").value;
  const items = [shown[at]];
  decide({ do: "edit", items, text });
  go(at + 1);
}

async function ask() {
  if (!data.can_ask) return say("No language model to ask: start reclap review with --ask.");
  if (!shown.length || asking) return;
  asking = true;
  say("Asking the language model…");
  const items = [shown[at]];
  draw();
  await send({ do: "ask", items }).then(() => ($("toast").hidden = true), (error) => say(error.message));
  asking = false;
  draw();
}

const play = () => $("player").paused ? $("player").play().catch(() => say("This clip cannot be played.")) : $("player").pause();

const KEYS = {
  j: () => go(at + 1), ArrowDown: () => go(at + 1), k: () => go(at - 1), ArrowUp: () => go(at - 1),
  a: () => judge("accept"), r: () => judge("reject"), o: () => judge("reopen"),
  e: startEdit, g: ask, u: () => decide({ do: "undo" }), U: () => decide({ do: "redo" }),
  p: () => $("clips").hidden || play(), c: () => drawClip(clip + 1),
  "/": () => $("search").focus(), "?": () => $("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea, audio")) {
    if (event.key === "Escape") event.target.id === "draft" ? endEdit() : event.target.blur();
    if (event.key === "Enter" && event.target.id === "draft") event.preventDefault(), keepEdit();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

const CLICKS = {
  undo: KEYS.u, redo: KEYS.U, help: KEYS["?"], accept: KEYS.a, reject: KEYS.r, reopen: KEYS.o,
  edit: startEdit, ask, keep: keepEdit, drop: endEdit, clip: KEYS.c, bulk: acceptAll,
};
for (const [id, act] of Object.entries(CLICKS)) $(id).addEventListener("click", () => act());
for (const id of ["search", "label", "status", "flag"]) $(id).addEventListener("input", () => filter());

history.replaceState(null, "", "/"); // the token need not stay in sight
load().catch((error) => say(error.message));
