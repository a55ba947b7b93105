"""Containers of torch checkpoints, memory-mapped: the zip file and the older sequence.

The zip file has records ``NAME/data.pkl``, ``NAME/byteorder`` and, for each storage,
``NAME/data/KEY``. The older file is five pickles (a magic number, a version, the writer's sizes,
the object, the keys of the storages) and then, for each key, the number of items and the items.
"""

import codecs
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Array
from reclap.errors import FormatError
from reclap.io import files
from reclap.pickles.machine import Budget, Machine, Opaque, shown
from reclap.pickles.opcodes import run
from reclap.pickles.rebuild import CALLS, ITEM_SIZES, Order, Storage, is_size

__all__ = ["load"]

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_ZIP = b"PK\x03\x04"
_ENTRY = 300  # bytes that an entry of the directory takes, rounded up


def load(path: Path) -> Any:
    """Return the object of a checkpoint; its tensors are `rebuild.Tensor`, still unread.

    Raises
    ------
    FormatError
        If the file is neither container or is damaged; it names file and offset.
    """
    size = path.stat().st_size
    if size == 0:
        raise FormatError(f"{path}: expected a torch checkpoint, got an empty file")
    with path.open("rb") as f:
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    budget = Budget(str(path), len(data))
    if data[:4] == _ZIP:
        return _Zip(data, budget).load()
    if data[:1] == b"\x80":
        return _Sequence(data, budget).load()
    what = files.disguise(data[:64]) or f"a file that begins with {data[:16]!r}"
    if data[8:9] == b"{":
        what = "what looks like a safetensors file; call it .safetensors"
    raise FormatError(f"{path}: expected a torch checkpoint, a zip file or a pickle, got {what}")


class _Storages:
    """The storages that a pickle has named so far."""

    def __init__(self, budget: Budget, order: Order) -> None:
        self.budget, self.order = budget, order
        self.known: dict[str, Storage] = {}

    def get(
        self, m: Machine, kind: Any, key: Any, numel: Any, fetch: Callable[[], Array]
    ) -> Storage:
        name = kind.name.rpartition(".")[2] if isinstance(kind, Opaque) else shown(kind)
        if name not in ITEM_SIZES or not isinstance(key, str) or not is_size(numel):
            m.fault(f"expected a storage, got {name} {shown(key)} of {shown(numel)} items")
        storage = self.known.get(key)
        if storage is None:
            self.budget.take(_ENTRY)
            storage = self.known[key] = Storage(name, numel, fetch, self.order, self.budget)
        if (storage.kind, storage.numel) != (name, numel):
            m.fault(
                f"expected storage {shown(key)} to stay a {storage.kind} of {storage.numel} items,"
                f" got {name} of {numel}"
            )
        return storage


# ---- Zip files -----------------------------------------------------------------------------------


codecs.lookup("cp437")  # of old names: imported now, and not because a file asks for it
_METHODS = {1: "shrunk", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstandard", 95: "xz"}
_UNFOLDED = 16  # bytes of zipfile's objects for each byte of a directory, rounded up


class _Reader:
    """The mapped file for zipfile, which pays for the objects that a directory becomes."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self.data, self.budget, self.at = data, budget, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, len(self.data))[whence]
        if self.at < 0:
            raise ValueError("an offset before the file")
        return self.at

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size < 0 else min(len(self.data), self.at + size)
        self.budget.take(_UNFOLDED * max(0, end - self.at))
        part = self.data[self.at : end]
        self.at += len(part)
        return part


class _Zip:
    """A zip file: the directory by zipfile, records as views of the mapped file."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self.data, self.budget = data, budget
        self.bytes: Array = np.frombuffer(data, np.uint8)
        self.records = self._directory()
        names = [n for n in self.records if n == "data.pkl" or n.endswith("/data.pkl")]
        if not names:
            self.fault("expected a record data.pkl, as torch.save writes")
        self.prefix = min(names, key=len)[: -len("data.pkl")]
        has_order = f"{self.prefix}byteorder" in self.records
        order = self.read(f"{self.prefix}byteorder") if has_order else b"little"
        if order not in (b"little", b"big"):
            self.fault(f"expected byteorder little or big, got {shown(order)}")
        self.storages = _Storages(budget, "<" if order == b"little" else ">")

    def fault(self, message: str) -> Any:
        raise FormatError(f"{self.budget.where}: {message}")

    def load(self) -> Any:
        name = f"{self.prefix}data.pkl"
        record = self.records[name]
        if record.compress_type == zipfile.ZIP_STORED:
            begin = self._begin(name)
            m = Machine(self.data, begin, begin + record.file_size, self.budget, CALLS, self._get)
        else:
            text = self.read(name)
            m = Machine(text, 0, len(text), self.budget, CALLS, self._get)
        return run(m)

    def _get(self, m: Machine, pid: Any) -> Storage:
        """Return the storage of a persistent id."""
        match pid:
            case ("storage", kind, str() as key, _, numel, *_):
                name = f"{self.prefix}data/{key}"
            case _:
                m.fault(f"expected the id of a storage, got {shown(pid)}")
        if name not in self.records:
            m.fault(f"expected a record {shown(name)}")
        storage = self.storages.get(m, kind, key, numel, lambda: self._bytes(name))
        size = self.records[name].file_size
        if storage.nbytes > size:
            m.fault(f"expected {storage.nbytes} bytes in record {shown(name)}, got {size}")
        return storage

    # ---- Records

    def read(self, name: str) -> bytes:
        """Return the content of a small record."""
        content = self._bytes(name)
        self.budget.take(len(content))
        return content.tobytes()

    def _bytes(self, name: str) -> Array:
        record, begin = self.records[name], self._begin(name)
        content = self.bytes[begin : begin + record.compress_size]
        if record.compress_type == zipfile.ZIP_STORED:
            return content
        return self._inflated(name, content)

    def _inflated(self, name: str, content: Array) -> Array:
        size = self.records[name].file_size
        self.budget.take(size)
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            out = unpack.decompress(content.data, size) if size else b""
        except zlib.error as error:
            self.fault(f"record {shown(name)}: {error}")
        if len(out) != size:
            self.fault(f"record {shown(name)}: expected {size} bytes, got {len(out)}")
        return np.frombuffer(out, np.uint8)

    def _begin(self, name: str) -> int:
        """Return the offset of a record's content, behind its local header."""
        record = self.records[name]
        if record.flag_bits & 1:
            self.fault(f"record {shown(name)}: expected it stored or deflated, got it encrypted")
        method = record.compress_type
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = _METHODS.get(method, f"method {method}")
            self.fault(f"record {shown(name)}: expected it stored or deflated, got {kind}")
        if method == zipfile.ZIP_STORED and record.file_size != record.compress_size:
            self.fault(f"record {shown(name)}: expected as many bytes as are stored")
        at = record.header_offset  # zipfile moves it by what it finds before the first record
        header = self.data[at : at + 30] if at >= 0 else b""
        if len(header) < 30 or not header.startswith(_ZIP):
            self.fault(f"record {shown(name)}: expected a header at byte {at}")
        begin: int = at + 30 + sum(struct.unpack("<HH", header[26:]))
        if begin + record.compress_size > len(self.data):
            self.fault(
                f"record {shown(name)}: expected {record.compress_size} bytes from byte {begin}"
            )
        return begin

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        """Return the records by name; of two of one name the last."""
        reader: Any = _Reader(self.data, self.budget)
        try:
            with zipfile.ZipFile(reader) as f:
                return dict(f.NameToInfo)
        except FormatError:
            raise
        except Exception as error:  # of damaged files: BadZipFile, and whatever it does not foresee
            raise FormatError(
                f"{self.budget.where}: expected the directory of a zip file; "
                f"is the file complete? {error}"
            ) from error


# ---- The older sequence --------------------------------------------------------------------------


class _Sequence:
    """Five pickles and the storages behind them, whose offsets are known only at the end."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self.data, self.budget = data, budget
        self.bytes: Array = np.frombuffer(data, np.uint8)
        self.storages = _Storages(budget, "<")  # torch writes this order on every machine
        self.offsets: dict[str, int] = {}
        self.at = 0

    def load(self) -> Any:
        if self._next() != MAGIC:
            self._fault("expected a torch checkpoint, got another pickle")
        version = self._next()
        if version != VERSION:
            self._fault(f"expected version {VERSION}, got {shown(version)}")
        self._next()
        root = self._next()
        keys = self._next()
        if not isinstance(keys, list) or len(keys) != len(self.storages.known):
            self._fault(f"expected the keys of {len(self.storages.known)} storages")
        for key in keys:
            self._locate(key)
        return root

    def _fault(self, message: str) -> Any:
        raise FormatError(f"{self.budget.where}: {message}")

    def _next(self) -> Any:
        m = Machine(self.data, self.at, len(self.data), self.budget, CALLS, self._storage)
        value = run(m)
        self.at = m.at
        return value

    def _locate(self, key: Any) -> None:
        if not isinstance(key, str) or key not in self.storages.known or key in self.offsets:
            self._fault(f"expected the key of a storage, got {shown(key)}")
        storage = self.storages.known[key]
        numel = int.from_bytes(self.data[self.at : self.at + 8], "little", signed=True)
        begin = self.at + 8
        if numel != storage.numel or begin + storage.nbytes > len(self.data):
            self._fault(
                f"storage {shown(key)}: expected {storage.numel} items,"
                f" got {numel} and {max(0, len(self.data) - begin)} bytes"
            )
        self.offsets[key] = begin
        self.at = begin + storage.nbytes

    def _bytes(self, key: str) -> Array:
        begin = self.offsets[key]
        return self.bytes[begin : begin + self.storages.known[key].nbytes]

    def _storage(self, m: Machine, pid: Any) -> Any:
        match pid:
            case ("storage", kind, str() as key, _, numel, *view):
                whole = self.storages.get(m, kind, key, numel, lambda: self._bytes(key))
                return self._part(m, whole, view[0]) if view and view[0] is not None else whole
            case ("module", cls, *_):
                return cls
        m.fault(f"expected the id of a storage, got {shown(pid)}")

    def _part(self, m: Machine, whole: Storage, view: Any) -> Storage:
        match view:
            case (_, offset, numel) if is_size(offset) and is_size(numel):
                size = ITEM_SIZES[whole.kind]
                if offset + numel <= whole.numel:
                    self.budget.take(_ENTRY)
                    return Storage(
                        whole.kind, numel, lambda: whole.raw()[offset * size :], "<", self.budget
                    )
        m.fault(f"expected a part of a storage of {whole.numel} items")
