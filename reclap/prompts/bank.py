"""Prompt banks: for each label descriptions of its sound, and captions that stand for it.

A bank is what prompt augmentation (ReCLAP, arXiv 2409.09213, section 3.2) leaves behind: several
descriptions of how a label sounds, and under each some captions that place that sound in a scene.
The captions are the prompts. On disk it is one JSON file, ``docs/prompts.md``.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.errors import FormatError
from reclap.io import files
from reclap.io.files import StrPath
from reclap.prompts.entries import (
    STATUSES,
    Description,
    Entry,
    Prompt,
    Status,
    check_status,
    fields_of,
    shown,
)
from reclap.text.tokenizer import check_texts

__all__ = ["FORMAT", "STATUSES", "Description", "Entry", "Prompt", "PromptBank", "Status", "sample"]

FORMAT = "reclap-prompts-1"


@dataclasses.dataclass(frozen=True)
class PromptBank:
    """Prompts for a set of labels, with what they were made by.

    Attributes
    ----------
    name : str
        Of the bank.
    made : mapping
        How it was made: by, model, settings, seed, date, source.
    entries : mapping of str to Entry
        By label, in order.

    Examples
    --------
    >>> bank = PromptBank.from_prompts({"dog": ["a gruff bark", "a yelp"], "rain": ["a hiss"]})
    >>> bank.labels
    ('dog', 'rain')
    >>> bank.sample(1, seed=3)
    {'dog': ['a yelp'], 'rain': ['a hiss']}
    """

    name: str
    made: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def __post_init__(self) -> None:
        """Check texts and statuses; TypeError or ValueError naming label and place."""
        check_texts(list(self.entries), "labels")
        for label, entry in self.entries.items():
            if entry.label != label:
                raise ValueError(f"entries[{label!r}]: its label is {entry.label!r}")
            for n, description in enumerate(entry.descriptions):
                where = f"{label!r}, description {n + 1}"
                check_status(where, description.status)
                if description.text:
                    check_texts([description.text], f"{where}, text")
                if description.prompts:
                    check_texts([p.text for p in description.prompts], f"{where}, prompts")
                for i, prompt in enumerate(description.prompts):
                    check_status(f"{where}, prompt {i + 1}", prompt.status)

    # ---- Files -------------------------------------------------------------------------------

    @classmethod
    def load(cls, name_or_path: StrPath) -> "PromptBank":
        """Read a bank.

        Parameters
        ----------
        name_or_path : str or path
            Name of a bank that comes with the package, as ``"esc50"``, or a file: a bank, or plain
            prompts ``{"label": ["a prompt", ...], ...}``, which are named after the file.

        Raises
        ------
        FileNotFoundError
            If it is neither; the message lists the names.
        FormatError
            If the file is neither, naming file, place, what was expected and what is there.
        """
        path = _find(name_or_path)
        data = files.parse_json(str(path), path.read_bytes(), unique=True)
        if not isinstance(data, dict) or isinstance(data.get("format"), str):
            return cls.from_json(data, str(path))
        if not all(isinstance(prompts, list) for prompts in data.values()):
            raise FormatError(f'{path}: expected a bank or {{"label": ["a prompt", ...], ...}}')
        try:
            return cls.from_prompts(data, path.stem)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{path}: {error}") from error

    def save(self, path: StrPath) -> None:
        """Write the bank atomically: UTF-8, one text a line, in a stable order."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        files.write_text(Path(path), text + "\n")

    @classmethod
    def from_json(cls, data: Any, where: str = "bank") -> "PromptBank":
        """Make a bank of parsed JSON; FormatError naming `where` and the place in it."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            got = data.get("format") if isinstance(data, dict) else data
            raise FormatError(f'{where}: expected "format": "{FORMAT}", got {shown(got)}')
        fields = fields_of(where, "bank", data)
        missing = [name for name in ("name", "labels") if name not in data]
        if missing:
            raise FormatError(f"{where}: no {' and no '.join(missing)}")
        entries = {
            label: Entry.from_json(label, entry, f"{where}: labels[{label!r}]")
            for label, entry in fields["labels"].items()
        }
        try:
            return cls(fields["name"], fields.get("made", {}), entries)
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes; fields at their default are left out."""
        labels = {label: entry.to_json() for label, entry in self.entries.items()}
        return {"format": FORMAT, "name": self.name, "made": dict(self.made), "labels": labels}

    # ---- Making ------------------------------------------------------------------------------

    @classmethod
    def from_prompts(
        cls,
        prompts: Mapping[str, Sequence[str]],
        name: str = "prompts",
        made: Mapping[str, Any] | None = None,
    ) -> "PromptBank":
        """Make a bank of plain prompts.

        Parameters
        ----------
        prompts : mapping of str to list of str
            Labels and the prompts that stand for each.
        name, made
            As the attributes.

        Raises
        ------
        TypeError, ValueError
            If there is no label, or one has no prompt or an empty one.
        """
        entries = {}
        for label, texts in prompts.items():
            checked = check_texts(texts, f"labels[{label!r}]")
            entries[label] = Entry(label, "", (Description("", tuple(map(Prompt, checked))),))
        return cls(name, made or {}, entries)

    @classmethod
    def from_descriptions(
        cls,
        descriptions: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
        name: str,
        made: Mapping[str, Any] | None = None,
        status: Status = "new",
    ) -> "PromptBank":
        """Make a bank of descriptions with their captions.

        Parameters
        ----------
        descriptions : mapping of str to list of (str, list of str)
            For each label descriptions, each with captions.
        name, made
            As the attributes.
        status : {"new", "accepted", "rejected"}
            Of all texts.

        Raises
        ------
        TypeError, ValueError
            If there is no label, or a text is empty.
        """
        entries = {}
        for label, pairs in descriptions.items():
            made_of = [
                Description(text, tuple(Prompt(caption, status) for caption in captions), status)
                for text, captions in pairs
            ]
            entries[label] = Entry(label, "", tuple(made_of))
        return cls(name, made or {}, entries)

    def replace(self, **changes: Any) -> "PromptBank":
        """Return a copy with other attributes: name, made, entries."""
        return dataclasses.replace(self, **changes)

    def select(self, labels: Iterable[str]) -> "PromptBank":
        """Return the part of the bank with these labels, in this order; KeyError if one is not."""
        return self.replace(entries={label: self.entries[label] for label in labels})

    # ---- Use ---------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.entries)

    def prompts(self) -> dict[str, list[str]]:
        """Return the texts of all prompts in use by label; what is rejected is left out."""
        return {label: [p.text for p in entry.live] for label, entry in self.entries.items()}

    def sample(self, n: int = 2, seed: int = 0) -> dict[str, list[str]]:
        """Draw prompts of each label without replacement; see `sample`."""
        return sample(self.prompts(), n, seed)

    @property
    def digest(self) -> str:
        """SHA-256 over labels and their prompts in use: equal digests name sounds equally."""
        text = json.dumps(list(self.prompts().items()), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def sample(prompts: Mapping[str, Sequence[str]], n: int = 2, seed: int = 0) -> dict[str, list[str]]:
    """Draw prompts of each label without replacement.

    Parameters
    ----------
    prompts : mapping of str to list of str
        All prompts of each label.
    n : int
        How many of each; ReCLAP (arXiv 2409.09213) found 2 best.
    seed : int
        Equal seeds draw equally, on any machine. What a label gets does not depend on other
        labels, and a larger `n` adds to what a smaller one drew.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    ValueError
        If `n` is below 1, or a label has fewer prompts.
    """
    if n < 1:
        raise ValueError(f"prompts of each label: {n}, expected at least 1")
    few = [f"{label!r} has {len(texts)}" for label, texts in prompts.items() if len(texts) < n]
    if few:
        raise ValueError(f"{n} prompts of each label wanted, but {', '.join(few)}")
    return {
        label: [texts[i] for i in _order(len(texts), label, seed)[:n]]
        for label, texts in prompts.items()
    }


def _order(count: int, label: str, seed: int) -> list[int]:
    """Return a random order as a pure function, so that no library's generator can change it."""
    return sorted(
        range(count), key=lambda i: hashlib.sha256(f"{seed}\0{label}\0{i}".encode()).digest()
    )


def _find(name: StrPath) -> Path:
    banks = Path(__file__).parent / "banks"
    names = sorted(path.stem for path in banks.glob("*.json"))
    if isinstance(name, str) and name in names:
        return banks / f"{name}.json"
    if Path(name).is_file():
        return Path(name)
    raise FileNotFoundError(
        f"no prompt bank named or at {os.fspath(name)!r}; bundled: {', '.join(names) or 'none'}"
    )
