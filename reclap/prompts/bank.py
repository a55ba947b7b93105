"""Prompt banks: descriptions of each label's sound, and captions that are its prompts.

A bank is the result of prompt augmentation (ReCLAP, arXiv 2409.09213, section 3.2): several
descriptions of how a label sounds, and for each some captions that put that sound into a scene.
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
from reclap.prompts.sampling import sample
from reclap.text.tokenizer import check_texts

__all__ = ["FORMAT", "STATUSES", "Description", "Entry", "Prompt", "PromptBank", "Status", "sample"]

FORMAT = "reclap-prompts-1"


@dataclasses.dataclass(frozen=True)
class PromptBank:
    """Prompts for a set of labels, with their provenance.

    Parameters
    ----------
    name : str
        Name of the bank.
    made : mapping
        Provenance: by, model, settings, seed, date, source.
    entries : mapping of str to Entry
        Entries by label, in order.

    Raises
    ------
    TypeError, ValueError
        If there is no label, or a text or status is wrong; the message names label and text.

    Examples
    --------
    >>> bank = PromptBank.from_prompts({"dog": ["a gruff bark", "a yelp"], "rain": ["a hiss"]})
    >>> bank.labels
    ('dog', 'rain')
    >>> bank.prompts()["dog"]
    ['a gruff bark', 'a yelp']
    >>> bank.sample(1, seed=3)
    {'dog': ['a yelp'], 'rain': ['a hiss']}
    >>> rain = bank.select(["rain"]).replace(name="weather")
    >>> rain.name, rain.labels
    ('weather', ('rain',))
    >>> bank.save("bank.json")
    >>> PromptBank.load("bank.json").digest == bank.digest
    True
    >>> PromptBank.from_json(bank.to_json()) == bank
    True
    >>> pairs = {"dog": [("short, rough bursts", ["a dog barks in a yard"])]}
    >>> PromptBank.from_descriptions(pairs, "mine").entries["dog"].descriptions[0].text
    'short, rough bursts'
    """

    name: str
    made: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def __post_init__(self) -> None:
        """Check texts and statuses; TypeError or ValueError naming label and text."""
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

        Returns
        -------
        PromptBank
            The bank.

        Raises
        ------
        FileNotFoundError
            If it is neither; the message lists the names.
        FormatError
            If the file is neither, naming file, field, what was expected and what was found.
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
        """Write the bank atomically: UTF-8, one text a line, in a stable order.

        Parameters
        ----------
        path : path
            File to write; an existing one is replaced.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        files.write_text(Path(path), text + "\n")

    @classmethod
    def from_json(cls, data: Any, where: str = "bank") -> "PromptBank":
        """Build a bank from parsed JSON.

        Parameters
        ----------
        data : dict
            Field names to values, as `to_json` gives them.
        where : str
            Name of the object in messages.

        Returns
        -------
        PromptBank
            The bank.

        Raises
        ------
        FormatError
            Naming `where` and the field.
        """
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
        """Return the bank as a JSON object.

        Returns
        -------
        dict
            Field names to values that `from_json` takes; fields at their default are left out.
        """
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
        """Build a bank from plain prompts.

        Parameters
        ----------
        prompts : mapping of str to list of str
            Labels with their prompts.
        name : str
            Name of the bank.
        made : mapping, optional
            Provenance.

        Returns
        -------
        PromptBank
            The bank; its prompts have no descriptions.

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
        """Build a bank from descriptions with their captions.

        Parameters
        ----------
        descriptions : mapping of str to list of (str, list of str)
            For each label descriptions, each with captions.
        name : str
            Name of the bank.
        made : mapping, optional
            Provenance.
        status : {"new", "accepted", "rejected"}
            Status of all texts.

        Returns
        -------
        PromptBank
            The bank.

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
        """Return a copy with other attributes.

        Parameters
        ----------
        **changes : object
            New values of name, made, entries.

        Returns
        -------
        PromptBank
            The copy.

        Raises
        ------
        TypeError, ValueError
            If a text or status is wrong.
        """
        return dataclasses.replace(self, **changes)

    def select(self, labels: Iterable[str]) -> "PromptBank":
        """Return the part of the bank with some labels.

        Parameters
        ----------
        labels : iterable of str
            Labels of the new bank, in order.

        Returns
        -------
        PromptBank
            The part.

        Raises
        ------
        KeyError
            If the bank lacks a label.
        """
        wanted = list(labels)
        for label in wanted:
            if label not in self.entries:
                raise KeyError(f"no label {label!r} in the bank")
        return self.replace(entries={label: self.entries[label] for label in wanted})

    # ---- Use ---------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.entries)

    def prompts(self) -> dict[str, list[str]]:
        """Return the texts of all prompts in use; rejected ones are left out.

        Returns
        -------
        dict of str to list of str
            Texts by label.
        """
        return {label: [p.text for p in entry.in_use] for label, entry in self.entries.items()}

    def sample(self, n: int = 2, seed: int = 0) -> dict[str, list[str]]:
        """Draw prompts of each label without replacement; see `sample`.

        Parameters
        ----------
        n : int
            Number of prompts of each label.
        seed : int
            Seed of the draw.

        Returns
        -------
        dict of str to list of str
            Texts by label.

        Raises
        ------
        ValueError
            If `n` is below 1, or a label has fewer prompts.
        """
        return sample(self.prompts(), n, seed)

    @property
    def digest(self) -> str:
        """SHA-256 over labels and prompts in use; equal digests give equal classifications."""
        text = json.dumps(list(self.prompts().items()), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


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
