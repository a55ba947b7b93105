"""Comparison of a rewrite with its caption: sources, their number and their order."""

from collections.abc import Iterator
from itertools import combinations

from reclap.checks.connectives import AT_ONCE, BESIDE, EARLIER, LATER
from reclap.checks.finding import Finding
from reclap.checks.lexicon import SOUND, THING, lexicon
from reclap.checks.scene import Mention, Scene, kingdom, read_scene
from reclap.checks.words import content

__all__ = ["claimed", "compare"]

_Named = dict[str, list[Mention]]


def compare(caption: str, rewrite: str) -> list[Finding]:
    """Compare the scenes of a caption and its rewrite.

    Parameters
    ----------
    caption, rewrite : str
        Two English captions.

    Returns
    -------
    list of Finding
        Sources that the rewrite loses, invents, exchanges, reorders, counts differently or denies.

    Examples
    --------
    >>> [str(f) for f in compare("a dog barks, then it rains", "rain falls, then a dog barks")]
    ['order: rain came after dog, now before it']
    """
    before, after = read_scene(caption), read_scene(rewrite)
    if not before.mentions:
        return list(_without_sources(caption, rewrite))
    return [
        *_sources(before, after),
        *_denials(before, after),
        *_counts(before, after),
        *_orders(before, after),
        *_roles(before, after),
    ]


def _without_sources(caption: str, rewrite: str) -> Iterator[Finding]:
    """Compare words alone, where the lexicon knows none of the caption's."""
    wanted = set(content(caption))
    if wanted and not wanted & set(content(rewrite)):
        yield Finding("lost", "no word of the caption is left", fatal=False)


# ---- Sources -------------------------------------------------------------------------------------


def _sources(before: Scene, after: Scene) -> Iterator[Finding]:
    old, new = before.named(), after.named()
    denied = {m.source for m in [*before.mentions, *after.mentions] if m.is_denied}
    lost = [s for s in _required(before, old) if s not in denied and not _is_kept(s, new, after)]
    invented = [s for s in claimed(new) if s not in denied and not _is_known(s, old, before)]
    for source in lost:
        rival = next((s for s in invented if lexicon().share_a_parent(source, s)), None)
        if rival is None:
            yield Finding("lost", f"{source} ({old[source][0].words!r})")
        else:
            invented.remove(rival)
            yield Finding("agent", f"{source} became {rival} ({new[rival][0].words!r})")
    for source in invented:
        yield from _invention(source, old, new)


def _invention(source: str, old: _Named, new: _Named) -> Iterator[Finding]:
    """Tell whether a source is new, or only narrower than one of the caption."""
    words = new[source][0].words
    rivals = [s for s in old if s not in new and lexicon().share_a_parent(source, s)]
    wider = lexicon().sources[source].wider & set(old)
    if wider:
        reason = f"{source} ({words!r}), where the caption has {min(wider)}"
        yield Finding("invented", reason, fatal=False)
    elif rivals:
        yield Finding("agent", f"{rivals[0]} became {source} ({words!r})")
    else:
        yield Finding("invented", f"{source} ({words!r})")


def _required(scene: Scene, named: _Named) -> list[str]:
    """Return the sources that a rewrite has to keep."""
    sources = lexicon().sources
    firm = {
        m.clause
        for group in named.values()
        for m in group
        if m.role in (THING, SOUND) and not sources[m.source].is_kind and not m.is_place
    }
    return [
        name
        for name, group in named.items()
        if not all(m.is_place for m in group)
        and (
            any(m.role in (THING, SOUND) for m in group if not sources[name].is_kind)
            or not any(_has_source(m, scene, firm) for m in group)
        )
    ]


def _has_source(mention: Mention, scene: Scene, things: set[int]) -> bool:
    """Tell whether a source is named in a mention's clause, or in one that it goes on from."""
    clause = mention.clause
    while clause not in things and clause > 0 and scene.clauses[clause].link == BESIDE:
        clause -= 1
    return clause in things


def claimed(named: _Named) -> list[str]:
    """Return the sources that a rewrite puts forward as its own."""
    return [
        name
        for name, group in named.items()
        if not lexicon().sources[name].is_kind
        and any(not m.is_place and not _describes(m, named) for m in group)
    ]


def _describes(mention: Mention, named: _Named) -> bool:
    """Tell whether a sound says how another thing sounds: "a knocking motor"."""
    if mention.role != SOUND:
        return mention.role != THING
    beside = [m for group in named.values() for m in group if m.clause == mention.clause]
    return kingdom(mention.source) == "thing" and any(
        m.role == THING and not m.is_place and m.source != mention.source for m in beside
    )


def _is_kept(source: str, named: _Named, scene: Scene) -> bool:
    if source in named or source in scene.evidence:
        return True
    return any(lexicon().are_related(source, name) for name in named)


def _is_known(source: str, named: _Named, scene: Scene) -> bool:
    """Tell whether the caption has a source: itself, a narrower one, or a hint at it."""
    if source in named or source in scene.evidence:
        return True
    return any(source in lexicon().sources[name].wider for name in named)


# ---- Denials -------------------------------------------------------------------------------------


def _denials(before: Scene, after: Scene) -> Iterator[Finding]:
    old, new = before.named(), after.named()
    for source in {m.source: None for m in after.mentions if m.is_denied}:
        if source in old and (source not in new or _is_said_of(source, after)):
            yield Finding("negation", f"{source} is denied")
    for source in {m.source: None for m in before.mentions if m.is_denied}:
        if source in new and source not in old:
            yield Finding("negation", f"{source} was denied")


def _is_said_of(source: str, scene: Scene) -> bool:
    """Tell whether a source is named and its sound denied: "a dog does not bark"."""
    these = [m for m in scene.mentions if m.source == source]
    denied = {m.clause for m in these if m.is_denied and m.role != THING}
    return bool(denied & {m.clause for m in these if not m.is_denied})


# ---- Numbers -------------------------------------------------------------------------------------


def _counts(before: Scene, after: Scene) -> Iterator[Finding]:
    old, new = before.named(), after.named()
    for source in old:
        if source not in new:
            continue
        for is_thing in (True, False):
            was, now = _count(old[source], is_thing), _count(new[source], is_thing)
            if was is not None and now is not None and _differ(was, now, is_thing):
                yield Finding("count", f"{source}: {_say(was)}, now {_say(now)}")


def _count(mentions: list[Mention], is_thing: bool) -> tuple[bool, int | None] | None:
    """Return the number of a source, if the text is unambiguous."""
    these = [m for m in mentions if (m.role == THING) == is_thing]
    values = {m.count for m in these if m.count is not None}
    if len(values) > 1:
        return None
    return bool(these), values.pop() if values else None


def _differ(was: tuple[bool, int | None], now: tuple[bool, int | None], is_thing: bool) -> bool:
    old, new = was[1], now[1]
    if new is None or old == new:
        return False
    if old is None:
        return new > 1  # an exact number from nowhere
    if is_thing:
        return not (old > 1 and new == 0)  # "two dogs" may become "dogs"
    return old > 0 or new > 1


def _say(count: tuple[bool, int | None]) -> str:
    value = count[1]
    return "no number" if value is None else "several" if value == 0 else str(value)


# ---- Order ---------------------------------------------------------------------------------------


def _orders(before: Scene, after: Scene) -> Iterator[Finding]:
    old, new = before.named(), after.named()
    for a, b in combinations([s for s in old if s in new], 2):
        if lexicon().are_related(a, b):
            continue
        was, now = _relations(before, old[a], old[b]), _relations(after, new[a], new[b])
        if len(was) == len(now) == 1:
            text = _disorder(was.pop(), now.pop(), new[a], new[b])
            if text:
                yield Finding("order", text.format(a=a, b=b))
                return


def _relations(scene: Scene, a: list[Mention], b: list[Mention]) -> set[str]:
    return {scene.relation(x, y) for x in a for y in b}


def _disorder(was: str, now: str, a: list[Mention], b: list[Mention]) -> str:
    """Return the fault of the order, with gaps for the names, or nothing."""
    if now == BESIDE and was in (LATER, EARLIER):
        if a[-1].clause < b[0].clause:
            now = LATER
        elif b[-1].clause < a[0].clause:
            now = EARLIER
    if (was, now) == (LATER, EARLIER):
        return "{b} came after {a}, now before it"
    if (was, now) == (EARLIER, LATER):
        return "{b} came before {a}, now after it"
    if was in (LATER, EARLIER) and now == AT_ONCE:
        return "{a} and {b} came one after the other, now at once"
    if was == AT_ONCE and now in (LATER, EARLIER):
        return "{a} and {b} came at once, now one after the other"
    return ""


# ---- Agents --------------------------------------------------------------------------------------


def _roles(before: Scene, after: Scene) -> Iterator[Finding]:
    """Find two people who exchange what they do."""
    was, now = _doers(before), _doers(after)
    for x, y in combinations([act for act in was if act in now], 2):
        pair = was[x], was[y]
        if pair[0] != pair[1] and (now[x], now[y]) == (pair[1], pair[0]):
            yield Finding("agent", f"{was[x]} and {was[y]} exchanged {x} and {y}")


def _doers(scene: Scene) -> dict[str, str]:
    """Return the person who makes each sound of the voice, where one is named for it."""
    sources = lexicon().sources
    doers: dict[str, set[str]] = {}
    people: dict[int, set[str]] = {}
    for m in scene.mentions:
        if "person" in sources[m.source].wider | {m.source}:
            people.setdefault(m.clause, set()).add(m.source)
    for m in scene.mentions:
        if "vocal" in sources[m.source].wider:
            clause = m.clause
            while clause not in people and clause > 0:
                clause -= 1
            doers.setdefault(m.source, set()).update(people.get(clause, ()))
    return {act: who.pop() for act, who in doers.items() if len(who) == 1}
