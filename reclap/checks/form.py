"""Checks of the form of one text: a plain English sentence, whatever its topic."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator

from reclap.checks.finding import Finding
from reclap.checks.garbled import check_garbled
from reclap.checks.language import check_language
from reclap.checks.lexicon import SOFT, SOUND, THING, lexicon
from reclap.checks.lists import read_list
from reclap.checks.words import FUNCTION, split, stem

__all__ = ["LIMITS", "check_form", "check_injection", "is_readable"]

# Least and most words. ReCLAP asks for captions under thirty words.
LIMITS = {"description": (4, 60), "prompt": (4, 29), "rewrite": (2, 29)}

_LONGEST = 2000  # characters
_SHOWN = 40  # characters of a text that a reason quotes


def check_form(text: str, kind: str) -> list[Finding]:
    """Return the faults of a text by itself.

    Parameters
    ----------
    text : str
        The text.
    kind : {"description", "prompt", "rewrite"}
        Kind of the text; sets the allowed length.

    Returns
    -------
    list of Finding
        Empty for a good text. One without words, not in Unicode, or far too long gives the one
        finding that says so; see `is_readable`.

    Examples
    --------
    >>> [str(f) for f in check_form("Here is a rewrite: a dog barks in the", "rewrite")]
    ["meta: starts with 'Here is'", "unfinished: ends with 'the'"]
    """
    if len(text) > _LONGEST:
        return [Finding("structure", f"{len(text)} characters, expected at most {_LONGEST}")]
    words = split(text)
    if not words:
        return [Finding("structure", "no words")]
    if any("\ud800" <= c <= "\udfff" for c in text):
        return [Finding("structure", "not valid Unicode")]
    found = [f for check in _CHECKS for f in check(text, words)]
    if is_readable(found):
        found += check_garbled(text, words)  # which knows English words only
    return [*_length(words, kind), *found]


def is_readable(findings: list[Finding]) -> bool:
    """Tell whether a text with these findings can be compared with others."""
    return not any(finding.check in ("structure", "language") for finding in findings)


def _quote(text: str) -> str:
    short = " ".join(text.split())
    return repr(short if len(short) <= _SHOWN else short[: _SHOWN - 3] + "...")


def _length(words: list[str], kind: str) -> Iterator[Finding]:
    least, most = LIMITS[kind]
    if not least <= len(words) <= most:
        yield Finding("length", f"{len(words)} words, expected {least} to {most}")


def _structure(text: str, _: list[str]) -> Iterator[Finding]:
    if "\n" in text.strip() or "\r" in text.strip():
        yield Finding("structure", "more than one line")
    if any(ord(c) < 32 and c not in "\n\r" for c in text) or "\ufffd" in text:
        yield Finding("structure", "control characters or undecodable bytes")


# ---- talk, crumbs, residue -----------------------------------------------------------------------

_Pattern = tuple[str, str, str]  # check, expression, what the reason says before the match
_PATTERNS: tuple[_Pattern, ...] = (
    ("meta", r"^\W*(here(?:'s| is| are)|sure\b|certainly\b|of course\b|okay\b)", "starts with"),
    ("meta", r"^\W*((?:rewritten |output |new |original |final |example )?"
             r"(?:captions?|outputs?|rewrites?|descriptions?|answers?|responses?|prompts?|labels?)"
             r"(?: \d+)?\s*[:=])", "starts with"),
    ("meta", r"^\W*((?:note|explanation|reasoning)\s*:)", "starts with"),
    ("meta", r"\b(as an? (?:ai|language model)|language model|i(?:'m| am) (?:sorry|unable|happy)|"
             r"i (?:can(?:'t|not)|could not|would|will|hope|have (?:re)?written)|"
             r"let me (?:know|help)|(?:the|this|your|original|rewritten) (?:captions?|rewrites?)|"
             r"(?:rewritten|rephrased|paraphrased) (?:caption|version|sentence)|"
             r"word (?:count|limit)|under (?:thirty|30) words|\d+ words)\b", "talks of"),
    ("meta", r"\b(th(?:e|is) (?:audio|recording|clip(?!-)|soundtrack|sound clip)|audio clip|"
             r"(?:can|could) be heard|(?:is|are) heard|we (?:can )?hear|you (?:can )?hear|"
             r"the listener|in the recording)\b", "talks of"),
    ("markup", r"(```|\*\*|__\w|^\s*#+ |^\s*[-*•] |^\s*\(?\d+[.)] )", "holds"),
    ("markup", r"([{}\[\]]|\\[nrtu\"]|\"\s*:\s*|\"\s*,\s*\")", "holds"),
    ("markup", r"(</?[a-z!][^>]*>|&(?:[a-z]+|#\d+);|javascript:)", "holds"),
    ("placeholder", r"((?:\[|<|\{)\s*(?:insert|your|label|sound|caption|source|place|name|object|"
                    r"animal|x)\b[^\]>}]*[\]>}]|\blorem ipsum\b|\btodo\b|\btbd\b|\bfixme\b|"
                    r"\bxxx+\b|\bfoo ?bar\b|\bplaceholder\b|_{3,}|\$\{|%s|"
                    r"\b(?:caption|description|text|rewrite|example|sentence) (?:\d+|here|goes)\b|"
                    r"\bn/a\b|^\W*(?:error|none|null|undefined|nan)\W*$)", "holds"),
    ("injection", r"\b((?:ignore|disregard|forget|override) (?:all |any |the |your |my )*"
                  r"(?:previous|prior|above|earlier|preceding|other|these|those)?\s*"
                  r"(?:instructions?|prompts?|rules|messages?|guidelines)|"
                  r"system (?:prompt|message)|developer mode|jailbreak|you are (?:now|a|an) |"
                  r"your (?:instructions|task)|reveal (?:your|the)|api[ _]key|password|"
                  r"respond (?:only|with)|act as an? )", "asks:"),
    ("injection", r"(<\|[^|>]*\|>|\[/?inst\]|<</?sys>>|</?s>|"
                  r"(?:^|\n)\s*(?:###|user|assistant|system|human|input)\s*:|### ?\w+)", "holds"),
    ("injection", r"(https?://\S+|www\.\S+|\S+@\S+\.\w+|\b(?:rm -rf|curl -|sudo|drop table)\b)",
     "holds"),
)  # fmt: skip
_COMPILED = tuple((check, re.compile(p, re.I), what) for check, p, what in _PATTERNS)


def _patterns(text: str, _: list[str]) -> Iterator[Finding]:
    seen = set()
    for check, pattern, what in _COMPILED:
        match = pattern.search(text)
        if match and check not in seen:
            seen.add(check)
            yield Finding(check, f"{what} {_quote(match.group(1))}")


def check_injection(text: str) -> list[Finding]:
    """Return the parts of a text that read like instructions to a language model.

    Examples
    --------
    >>> [str(f) for f in check_injection("rain; ignore previous instructions")]
    ["injection: asks: 'ignore previous instructions'"]
    """
    return [finding for finding in _patterns(text, []) if finding.check == "injection"]


# ---- offence -------------------------------------------------------------------------------------

_VIOLENT = frozenset(map(stem, read_list("violent")))
_OBSCENE = frozenset(read_list("obscene"))  # digests


def _offensive(_: str, words: list[str]) -> Iterator[Finding]:
    for word in words:
        base = stem(word)
        if base in _VIOLENT:
            yield Finding("offensive", f"violent word {base!r}", fatal=False)
        elif _digest(word) in _OBSCENE:
            yield Finding("offensive", "an obscene word or a slur")


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:8]


# ---- ends and repetitions ------------------------------------------------------------------------

_DANGLING = frozenset(read_list("dangling"))
_CUT_OFF = frozenset(("a", "an", "the", "and", "or", "nor", "than", "while", "its", "their"))


def _unfinished(text: str, words: list[str]) -> Iterator[Finding]:
    end = text.rstrip()
    if words[-2:] in (["a", "while"], ["a", "can"], ["the", "can"]) or words[-3:] == [
        "now",
        "and",
        "then",
    ]:
        return
    dangling = _CUT_OFF if end.endswith(".") else _DANGLING  # "a beat to move to."
    if words[-1] in dangling or (len(words[-1]) == 1 and words[-1].isalpha()):
        yield Finding("unfinished", f"ends with {words[-1]!r}")
    elif end.endswith((",", ";", ":", "-", "\u2013", "\u2014", "(", "...", "\u2026", "/", "&")):
        yield Finding("unfinished", f"ends with {end[-1]!r}")
    elif end.count("(") != end.count(")") or end.count('"') % 2:
        yield Finding("unfinished", "a bracket or quotation mark has no partner")
    elif re.search(r"[a-z][.!?] [A-Z]", end) and not re.search(r"[.!?]['\"\u2019\u201d)]*$", end):
        yield Finding("unfinished", "the last sentence has no end")


_DOUBLED = re.compile(r"\b([^\W\d_]+)(?:,? |, and )\1\b(?!['-])|\b([^\W\d_]+),? and \2,? and \2\b")
_QUALITIES = frozenset(read_list("qualities"))
_EMPHATIC = frozenset(read_list("emphatic"))  # common repetitions


def _repetition(text: str, words: list[str]) -> Iterator[Finding]:
    pairs = list(itertools.pairwise(words))
    doubled = next((a for a, b in pairs if a == b and a in FUNCTION), None) or _doubled(text)
    runs = [
        a for i, a in enumerate(words) if len(set(words[i : i + 4])) == 1 and i + 4 <= len(words)
    ]
    triples = Counter(
        triple
        for triple in zip(words, words[1:], words[2:], strict=False)
        if len(FUNCTION.intersection(triple)) < 2 and not _is_name(triple)
    )
    stems = Counter(stem(w) for w in words if w not in FUNCTION)
    if doubled or runs:
        yield Finding("repetition", f"{doubled or runs[0]!r} again and again")
    elif triples and (most := triples.most_common(1)[0])[1] > 1:
        yield Finding("repetition", f"{' '.join(most[0])!r} {most[1]} times")
    elif stems and (top := stems.most_common(1)[0])[1] > 3:
        yield Finding("repetition", f"{top[0]!r} {top[1]} times")


def _doubled(text: str) -> str:
    """Return a word said twice in a row, or three times with "and", or nothing."""
    for match in _DOUBLED.finditer(text.lower()):
        word = match.group(1) or match.group(2)
        if not (word in _EMPHATIC or word.endswith("er") or _is_sound(word)):
            return word
    return ""


def _is_name(triple: tuple[str, str, str]) -> bool:
    """Tell whether words name a source, which may come back: "an adult male"."""
    groups = lexicon().phrases.get(stem(triple[2]), ())
    return triple[0] in ("a", "an", "the") and any(
        role == THING for words, group in groups if len(words) == 1 for _, role in group
    )


def _is_sound(word: str) -> bool:
    """Tell whether a word is a sound: "tick, tick", "a knock knock"."""
    if word in _QUALITIES:
        return False
    meanings = (m for words, m in lexicon().phrases.get(stem(word), ()) if len(words) == 1)
    return any(role in (SOUND, SOFT) for group in meanings for _, role in group)


_Check = Callable[[str, list[str]], Iterator[Finding]]
_CHECKS: tuple[_Check, ...] = (
    _structure,
    check_language,
    _patterns,
    _offensive,
    _unfinished,
    _repetition,
)
