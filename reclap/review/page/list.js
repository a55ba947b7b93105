// A list of which only the rows in sight exist, so that many thousands scroll smoothly.

const HEIGHT = 58; // of a row, as in style.css
const SPARE = 8; // rows kept above and below

export class List {
  // `draw(row, key)` fills a row's element, `choose(index)` is called when one is clicked.
  constructor(frame, rows, draw, choose) {
    Object.assign(this, { frame, rows, draw, choose, keys: [], chosen: -1, made: new Map() });
    frame.addEventListener("scroll", () => this.render(), { passive: true });
    new ResizeObserver(() => this.render()).observe(frame);
  }

  // Show other keys.
  fill(keys) {
    this.keys = keys;
    this.made.clear();
    this.rows.replaceChildren();
    this.rows.style.height = `${keys.length * HEIGHT}px`;
    this.render();
  }

  // Mark a row and bring it into sight.
  mark(index) {
    this.chosen = index;
    const top = index * HEIGHT;
    const room = this.frame.clientHeight;
    if (top < this.frame.scrollTop + HEIGHT) this.frame.scrollTop = top - HEIGHT;
    if (top + 2 * HEIGHT > this.frame.scrollTop + room) this.frame.scrollTop = top + 2 * HEIGHT - room;
    this.render();
  }

  // Draw what is in sight anew, and forget the rest.
  render() {
    const first = Math.max(0, Math.floor(this.frame.scrollTop / HEIGHT) - SPARE);
    const count = Math.ceil(this.frame.clientHeight / HEIGHT) + 2 * SPARE;
    const last = Math.min(this.keys.length, first + count);
    for (const [index, row] of this.made) {
      if (index < first || index >= last) {
        row.remove();
        this.made.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      const row = this.made.get(index) ?? this.make(index);
      this.draw(row, this.keys[index]);
      row.classList.toggle("chosen", index === this.chosen);
    }
  }

  make(index) {
    const row = document.createElement("div");
    row.style.top = `${index * HEIGHT}px`;
    for (const part of [document.createElement("p"), document.createElement("p")]) {
      part.append(document.createElement("bdi"));
      row.append(part);
    }
    row.addEventListener("click", () => this.choose(index));
    this.rows.append(row);
    this.made.set(index, row);
    return row;
  }
}
