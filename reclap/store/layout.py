"""Layout of a store on disk: files, header, index of complete rows."""

import dataclasses
import logging
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from reclap._types import Array
from reclap.errors import FormatError
from reclap.io.files import parse_json

__all__ = [
    "CHECKED",
    "FORMAT",
    "HEADER",
    "INDEX",
    "LOCK",
    "MARK",
    "RECORD",
    "ROWS",
    "TEXT",
    "VERSION",
    "Header",
    "Part",
    "Rows",
    "checksum",
]

log = logging.getLogger(__name__)

Rows: TypeAlias = Array

FORMAT, VERSION = "reclap-embeddings", 1
HEADER, MARK, LOCK = "header.json", "checkpoint.json", "lock"
ROWS, TEXT, INDEX = "rows.bin", "text.bin", "index.bin"
TYPES = {"float32": "<f4", "float16": "<f2"}
RECORD = np.dtype([("item_end", "<u8"), ("end", "<u8"), ("crc", "<u4"), ("check", "<u4")])
CHECKED = RECORD.itemsize - 4  # bytes of a record that its own check covers
_MOST_DIM = 2**20


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a store: kind of its rows, and their provenance.

    Parameters
    ----------
    digest : str
        Digest of the model; equal digests give equal embeddings.
    dim : int
        Width of a row.
    kind : str
        Kind of the items: "audio", "text", or a name of the caller's.
    model : str
        Name of the model, for people.
    type : {"float32", "float16"}
        Type of the rows.
    preparation : str
        Further provenance beside the model, see `Embedder.preparation`: rows that differ in it are
        not mixed, but may be compared.

    Raises
    ------
    ValueError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> header = Header("0" * 64, 384, "text", "mini", type="float16")
    >>> header.row_bytes, header.describe()[:31]
    (768, 'text of mini, 384 float16, 0000')
    >>> header.to_json()["version"]
    1
    """

    digest: str
    dim: int
    kind: str
    model: str = ""
    type: Literal["float32", "float16"] = "float32"
    preparation: str = ""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        texts = (self.digest, self.kind, self.model, self.type, self.preparation)
        if not all(isinstance(text, str) for text in texts) or self.type not in TYPES:
            raise ValueError(f"expected texts, and a type of {', '.join(TYPES)}, got {self}")
        if type(self.dim) is not int or not 0 < self.dim <= _MOST_DIM:
            raise ValueError(f"dim is {self.dim!r}, expected 1 to {_MOST_DIM}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the rows."""
        return np.dtype(TYPES[self.type])

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return self.dim * self.dtype.itemsize

    def describe(self) -> str:
        """Return a short text for messages, with the digest in full.

        Returns
        -------
        str
            One line.
        """
        text = f"{self.kind} of {self.model or 'a model'}, {self.dim} {self.type}, {self.digest}"
        told = self.preparation or ("tokenizer not told" if self.kind == "text" else "")
        return f"{text}, {told}" if told else text

    def to_json(self) -> dict[str, Any]:
        """Return the content of the header's file; a preparation only where there is one.

        Returns
        -------
        dict
            Field names to values, with the format and its version.
        """
        data = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return data if self.preparation else {k: v for k, v in data.items() if k != "preparation"}


class Part:
    """One folder: its header, and the index of its complete rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.header = folder, _read_header(folder)
        mark = _read_mark(folder)  # first of all, because a writer may be appending
        index = _map(folder / INDEX)
        index = index[: len(index) // RECORD.itemsize * RECORD.itemsize].view(RECORD)
        rows, self._text = _map(folder / ROWS), _map(folder / TEXT)
        count = _count_ordered(index[: len(rows) // self.header.row_bytes], len(self._text))
        self._set(index, rows, count)
        if count < mark:
            log.warning("%s: %d rows are missing at its end", folder, mark - count)
        self._set(index, rows, self.count_intact(min(mark, count), count))

    def _set(self, index: Rows, rows: Rows, count: int) -> None:
        self.index = index[:count]
        flat = rows[: count * self.header.row_bytes].view(self.header.dtype)
        self.rows = flat.reshape(count, self.header.dim)

    def _span(self, i: int) -> tuple[int, int, int]:
        begin = int(self.index["end"][i - 1]) if i else 0
        return begin, int(self.index["item_end"][i]), int(self.index["end"][i])

    def items(self, start: int, stop: int) -> list[str]:
        """Return the items of some rows."""
        ends = self.index["end"][max(start - 1, 0) : stop].tolist()
        begins = [0, *ends] if start == 0 else ends
        item_ends = self.index["item_end"][start:stop].tolist()
        text = self._text.data
        return [
            str(text[begin:end], "utf-8", "surrogateescape")
            for begin, end in zip(begins, item_ends, strict=False)
        ]

    def metadata(self, i: int) -> Any:
        """Return the metadata of a row."""
        _, begin, end = self._span(i)
        where = f"{self.folder}: metadata of row {i}"
        return parse_json(where, self._text[begin:end].tobytes()) if end > begin else None

    def count_intact(self, start: int, stop: int) -> int:
        """Return the index of the first damaged row from `start` on, or `stop`."""
        for i in range(start, stop):
            record, (begin, _, end) = self.index[i : i + 1].tobytes(), self._span(i)
            crc = checksum(self.rows[i].tobytes(), self._text[begin:end].tobytes())
            check = zlib.crc32(record[:CHECKED])
            if (crc, check) != (self.index["crc"][i], self.index["check"][i]):
                return i
        return stop


def checksum(row: bytes, text: bytes) -> int:
    """Return the CRC-32 of a row and its text."""
    return zlib.crc32(text, zlib.crc32(row))


def _map(path: Path) -> Rows:
    """Map a file as bytes; an empty one cannot be mapped."""
    size = path.stat().st_size
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(size,)) if size else [], np.uint8)


def _count_ordered(index: Rows, text_size: int) -> int:
    """Return the number of consistent records before the first inconsistent one."""
    ends, items = index["end"], index["item_end"]
    begins = np.concatenate([np.zeros(1, ends.dtype), ends[:-1]])[: len(ends)]
    bad = (items < begins) | (ends < items) | (ends > text_size)
    return int(bad.argmax()) if bad.any() else len(index)


def _read_header(folder: Path) -> Header:
    path = folder / HEADER
    data = parse_json(str(path), path.read_bytes())
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise FormatError(f"{path}: no header of a store of embeddings")
    version = data.pop("version", None)
    if version != VERSION:
        raise FormatError(f"{path}: version {version!r}, this reclap reads {VERSION}")
    try:
        return Header(**data)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: {error}") from error


def _read_mark(folder: Path) -> int:
    """Return the number of rows that were known to be on disk."""
    path = folder / MARK
    try:
        data = parse_json(str(path), path.read_bytes())
    except FileNotFoundError:
        return 0
    rows = data.get("rows") if isinstance(data, dict) else None
    if type(rows) is not int or rows < 0:
        raise FormatError(f"{path}: expected {{'rows': N}}")
    return rows
