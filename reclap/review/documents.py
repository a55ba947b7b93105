"""Documents for review, prompt banks and manifests with rewrites, each as one list of items."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reclap.checks import check_rewrite
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.files import StrPath, atomic
from reclap.io.manifest import FLAGS, Caption
from reclap.prompts.bank import PromptBank
from reclap.prompts.entries import Description, Entry, Prompt
from reclap.review.journal import digest

__all__ = ["Document", "Item", "open_document"]

_NAMES = ("rewrites", "rewritten_captions")


@dataclasses.dataclass(frozen=True)
class Item:
    """A text to judge.

    Parameters
    ----------
    kind : {"description", "prompt", "rewrite"}
        Kind of the text.
    label : str
        Label of the text; for a rewrite the original caption.
    prompt : Prompt
        The text with its status, flags and origin.
    definition : str
        Definition of the label; may be empty.
    parent : int, optional
        For a prompt: the index of its description among the items.
    sound : Path, optional
        For a rewrite: the sound that it describes.

    Examples
    --------
    >>> Item("prompt", "dog", Prompt("a dog barks")).prompt.status
    'new'
    """

    kind: str
    label: str
    prompt: Prompt
    definition: str = ""
    parent: int | None = None
    sound: Path | None = None


class Document(Protocol):
    """A file under review, with its digest, its name and its items."""

    path: Path
    digest: str
    name: str
    items: list[Item]

    def write(self, path: Path, prompts: Sequence[Prompt]) -> None:
        """Write the file with other prompts.

        Parameters
        ----------
        path : Path
            File to write.
        prompts : sequence of Prompt
            One for each of `items`.
        """


def open_document(path: StrPath) -> Document:
    """Read a file to review.

    Parameters
    ----------
    path : path
        A prompt bank (``.json``), or a manifest of JSON lines (``.jsonl``) with captions and their
        ``rewrites`` in each row, as `reclap rewrite` writes it.

    Returns
    -------
    Document
        Document with its items.

    Raises
    ------
    FormatError
        If it is neither, is damaged, or holds nothing to review.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> PromptBank.from_prompts({"dog": ["a dog barks", "a dog growls"]}).save("bank.json")
    >>> [item.prompt.text for item in open_document("bank.json").items]
    ['a dog barks', 'a dog growls']
    """
    path = Path(path).resolve(strict=True)  # a link stays one
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise FormatError(f"{path}: expected a prompt bank (.json) or a manifest (.jsonl)")
    document: Document = _Rewrites(path) if path.suffix.lower() == ".jsonl" else _Bank(path)
    if not document.items:
        raise FormatError(f"{path}: nothing to review in it")
    return document


class _Bank:
    """The descriptions of a bank, each followed by its prompts."""

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, digest(path)
        self._bank = PromptBank.load(path)
        self.name = self._bank.name
        self.items: list[Item] = []
        for entry in self._bank.entries.values():
            for description in entry.descriptions:
                self._take(entry, description)

    def _take(self, entry: Entry, description: Description) -> None:
        d, parent = description, None
        if d.text:  # there is none where prompts were given as they are
            parent = len(self.items)
            own = Prompt(d.text, d.status, d.flags, d.origin)
            self.items.append(Item("description", entry.label, own, entry.definition))
        self.items += (
            Item("prompt", entry.label, prompt, entry.definition, parent) for prompt in d.prompts
        )

    def write(self, path: Path, prompts: Sequence[Prompt]) -> None:
        remaining = iter(prompts)
        entries = {
            label: dataclasses.replace(
                entry, descriptions=tuple(_renewed(d, remaining) for d in entry.descriptions)
            )
            for label, entry in self._bank.entries.items()
        }
        self._bank.replace(entries=entries).save(path)


def _renewed(description: Description, remaining: Iterator[Prompt]) -> Description:
    own = vars(next(remaining)) if description.text else {}
    prompts = tuple(next(remaining) for _ in description.prompts)
    return dataclasses.replace(description, **own, prompts=prompts)


class _Rewrites:
    """The rewrites of a manifest.

    A row keeps what was decided in a column ``review``: for each of its captions all rewrites, as
    a bank keeps its prompts. The lists of rewrites, which training reads, hold those that are not
    rejected.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, digest(path)
        self.name = path.stem
        self._rows: list[dict[str, Any]] = []
        self._counts: list[list[int]] = []  # rewrites of each caption of each row
        self.items: list[Item] = []
        shared = manifest.SharedCaptions(path.parent)
        for line, row in manifest.items(path):
            at = f"{path}:{line}"
            if isinstance(row.get("captions"), str):
                raise FormatError(f"{at}: captions: in a file of their own; expected a list")
            self._take(at, row, manifest.take_captions(at, dict(row), shared))

    def _take(self, at: str, row: dict[str, Any], captions: Sequence[Caption]) -> None:
        named = row.get("path", row.get("audio"))
        sound = self.path.parent / named if isinstance(named, str) else None
        if "review" in row:
            groups = _reviewed(at, row["review"], captions)
        else:
            groups = _new(captions, _doubts(at, row.get(FLAGS, {})))
        self._rows.append(row)
        self._counts.append([len(group) for group in groups])
        for caption, group in zip(captions, groups, strict=True):
            self.items += (Item("rewrite", caption.text, prompt, sound=sound) for prompt in group)

    def write(self, path: Path, prompts: Sequence[Prompt]) -> None:
        remaining = iter(prompts)
        with atomic(path) as f:
            for row, counts in zip(self._rows, self._counts, strict=True):
                groups = [[next(remaining) for _ in range(count)] for count in counts]
                f.write(json.dumps(_decided(row, groups), ensure_ascii=False).encode() + b"\n")


def _doubts(at: str, given: Any) -> dict[str, tuple[str, ...]]:
    """Return the flags of texts from a row's column."""
    if isinstance(given, dict) and all(isinstance(flags, list) for flags in given.values()):
        return {text: tuple(map(str, flags)) for text, flags in given.items()}
    raise FormatError(f"{at}: {FLAGS}: expected an object of lists")


def _new(captions: Sequence[Caption], doubts: Mapping[str, tuple[str, ...]]) -> list[list[Prompt]]:
    """Return unreviewed rewrites, with their flags or those of the checks."""
    return [
        [
            Prompt(text, flags=doubts.get(text) or tuple(map(str, check_rewrite(c.text, text))))
            for text in c.rewrites
        ]
        for c in captions
    ]


def _reviewed(at: str, review: Any, captions: Sequence[Caption]) -> list[list[Prompt]]:
    """Return the rewrites of a row with the decisions of an earlier review."""
    is_list = isinstance(review, list) and all(isinstance(group, list) for group in review)
    if not is_list or len(review) != len(captions):
        raise FormatError(f"{at}: review: expected a list of {len(captions)} lists")
    groups = [
        [Prompt.from_json(x, f"{at}: review[{n}][{i}]") for i, x in enumerate(group)]
        for n, group in enumerate(review)
    ]
    for n, (group, caption) in enumerate(zip(groups, captions, strict=True)):
        if _in_use(group) != list(caption.rewrites):
            raise FormatError(f"{at}: review[{n}]: texts in use differ from the rewrites")
    return groups


def _in_use(prompts: Iterable[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts if prompt.status != "rejected"]


def _decided(row: dict[str, Any], groups: Sequence[Sequence[Prompt]]) -> dict[str, Any]:
    """Return a row with the decisions of the review."""
    if not any(groups):
        return row
    kept = {name: value for name, value in row.items() if name != FLAGS}
    if "captions" in row:
        pairs = zip(row["captions"], groups, strict=True)
        kept["captions"] = [
            caption | {_column(caption): _in_use(group)} for caption, group in pairs
        ]
    else:
        kept[_column(row)] = _in_use(groups[0])
    return kept | {"review": [[prompt.to_json() for prompt in group] for group in groups]}


def _column(row: Mapping[str, Any]) -> str:
    return next((name for name in _NAMES if name in row), _NAMES[0])
