"""The two containers of torch checkpoints, mapped into memory: the zip file and the older sequence.

The zip file has records ``NAME/data.pkl``, ``NAME/byteorder`` and, for each storage,
``NAME/data/KEY``. The older file is five pickles (a magic number, a version, the writer's sizes,
the object, the keys of the storages) and then, for each key, the number of items and the items.
"""

import mmap
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reclap import files
from reclap.errors import FormatError
from reclap.pickles.machine import Budget, Machine, Opaque, shown
from reclap.pickles.opcodes import run
from reclap.pickles.rebuild import CALLS, ITEM_SIZES, Array, Order, Storage, is_size

__all__ = ["load"]

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_ZIP = b"PK\x03\x04"
_ENTRY = 300  # bytes that an entry of the directory takes, rounded up


def load(path: Path) -> Any:
    """Return the object of a checkpoint; its tensors are `rebuild.Tensor`, still unread.

    Raises
    ------
    FormatError
        If the file is neither container or is damaged; it names file and place.
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


class _Record(NamedTuple):
    method: int
    packed: int  # bytes in the file
    size: int
    header: int  # place of the local header


class _Zip:
    """A zip file. Its own reader, as the standard one trusts sizes and raises many exceptions."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self.data, self.budget = data, budget
        self.bytes: Array = np.frombuffer(data, np.uint8)
        self.records = dict(self._directory())
        names = [n for n in self.records if n == b"data.pkl" or n.endswith(b"/data.pkl")]
        if not names:
            self.fault("expected a record data.pkl, as torch.save writes")
        self.prefix = min(names, key=len)[: -len(b"data.pkl")]
        order = self.read(self.prefix + b"byteorder") if self._has(b"byteorder") else b"little"
        if order not in (b"little", b"big"):
            self.fault(f"expected byteorder little or big, got {shown(order)}")
        self.storages = _Storages(budget, "<" if order == b"little" else ">")

    def fault(self, message: str) -> Any:
        raise FormatError(f"{self.budget.where}: {message}")

    def load(self) -> Any:
        name = self.prefix + b"data.pkl"
        record = self.records[name]
        if record.method == 0:
            begin = self._begin(name)
            m = Machine(self.data, begin, begin + record.size, self.budget, CALLS, self._storage)
        else:
            text = self.read(name)
            m = Machine(text, 0, len(text), self.budget, CALLS, self._storage)
        return run(m)

    def _has(self, name: bytes) -> bool:
        return self.prefix + name in self.records

    def _storage(self, m: Machine, pid: Any) -> Storage:
        match pid:
            case ("storage", kind, str() as key, _, numel, *_):
                name = self.prefix + b"data/" + key.encode("utf-8", "surrogatepass")
            case _:
                m.fault(f"expected the id of a storage, got {shown(pid)}")
        if name not in self.records:
            m.fault(f"expected a record {shown(name)}")
        storage = self.storages.get(m, kind, key, numel, lambda: self._bytes(name))
        if storage.nbytes > self.records[name].size:
            m.fault(
                f"expected {storage.nbytes} bytes in record {shown(name)},"
                f" got {self.records[name].size}"
            )
        return storage

    # ---- Records

    def read(self, name: bytes) -> bytes:
        """Return the content of a small record."""
        content = self._bytes(name)
        self.budget.take(len(content))
        return content.tobytes()

    def _bytes(self, name: bytes) -> Array:
        record, begin = self.records[name], self._begin(name)
        content = self.bytes[begin : begin + record.packed]
        return content if record.method == 0 else self._inflated(name, content)

    def _inflated(self, name: bytes, content: Array) -> Array:
        size = self.records[name].size
        self.budget.take(size)
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            out = unpack.decompress(content.data, size) if size else b""
        except zlib.error as error:
            self.fault(f"record {shown(name)}: {error}")
        if len(out) != size:
            self.fault(f"record {shown(name)}: expected {size} bytes, got {len(out)}")
        return np.frombuffer(out, np.uint8)

    def _begin(self, name: bytes) -> int:
        """Return where the content of a record begins, behind its local header."""
        record = self.records[name]
        header = self.data[record.header : record.header + 30]
        if len(header) < 30 or not header.startswith(_ZIP):
            self.fault(f"record {shown(name)}: expected a header at byte {record.header}")
        begin: int = record.header + 30 + sum(struct.unpack("<HH", header[26:]))
        if begin + record.packed > len(self.data):
            self.fault(f"record {shown(name)}: expected {record.packed} bytes from byte {begin}")
        return begin

    # ---- The directory

    def _directory(self) -> list[tuple[bytes, _Record]]:
        count, size, at = self._end()
        end = at + size
        if end > len(self.data):
            self.fault(f"expected the directory inside the file, got byte {end}")
        entries = []
        for _ in range(count):
            self.budget.take(_ENTRY)
            entry = self.data[at : min(at + 46, end)]
            if len(entry) < 46 or not entry.startswith(b"PK\x01\x02"):
                self.fault(f"expected an entry of the zip directory at byte {at}")
            names, extras, comments = struct.unpack("<HHH", entry[28:34])
            name = self.data[at + 46 : at + 46 + names]
            extra = self.data[at + 46 + names : at + 46 + names + extras]
            entries.append((name, self._record(name, entry, extra)))
            at += 46 + names + extras + comments
        return entries

    def _record(self, name: bytes, entry: bytes, extra: bytes) -> _Record:
        flags, method = struct.unpack("<HH", entry[8:12])
        packed, size = struct.unpack("<II", entry[20:28])
        values = [size, packed, *struct.unpack("<I", entry[42:46])]
        large = self._large(extra)
        for i, value in enumerate(values):
            if value == 0xFFFFFFFF and large:
                values[i] = large.pop(0)
        if flags & 1 or method not in (0, 8):
            self.fault(f"record {shown(name)}: expected it stored or deflated, not encrypted")
        if method == 0 and values[0] != values[1]:
            self.fault(f"record {shown(name)}: expected as many bytes as are stored")
        return _Record(method, packed=values[1], size=values[0], header=values[2])

    def _large(self, extra: bytes) -> list[int]:
        """Return the 64-bit values of the extra field."""
        while len(extra) >= 4:
            tag, length = struct.unpack("<HH", extra[:4])
            if tag == 1:
                body = extra[4 : 4 + min(length, 24) // 8 * 8]
                body = body[: len(body) // 8 * 8]
                return list(struct.unpack(f"<{len(body) // 8}Q", body))
            extra = extra[4 + length :]
        return []

    def _end(self) -> tuple[int, int, int]:
        """Return number of entries, size and place of the directory."""
        at = self.data.rfind(b"PK\x05\x06", max(0, len(self.data) - 65_557))
        if at < 0 or at + 22 > len(self.data):
            self.fault("expected the directory of a zip file at the end; is the file complete?")
        count, size, begin = struct.unpack("<HII", self.data[at + 10 : at + 20])
        locator = self.data[at - 20 : at] if at >= 20 else b""
        if locator.startswith(b"PK\x06\x07"):
            place = struct.unpack("<Q", locator[8:16])[0]
            large = self.data[place : place + 56] if place < at else b""
            if len(large) < 56 or not large.startswith(b"PK\x06\x06"):
                self.fault(f"expected the zip64 directory at byte {place}")
            count, size, begin = struct.unpack("<QQQ", large[32:56])
        return count, size, begin


# ---- The older sequence --------------------------------------------------------------------------


class _Sequence:
    """Five pickles and the storages behind them, whose places are known only at the end."""

    def __init__(self, data: mmap.mmap, budget: Budget) -> None:
        self.data, self.budget = data, budget
        self.bytes: Array = np.frombuffer(data, np.uint8)
        self.storages = _Storages(budget, "<")  # torch writes this order on every machine
        self.places: dict[str, int] = {}
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
            self._place(key)
        return root

    def _fault(self, message: str) -> Any:
        raise FormatError(f"{self.budget.where}: {message}")

    def _next(self) -> Any:
        m = Machine(self.data, self.at, len(self.data), self.budget, CALLS, self._storage)
        value = run(m)
        self.at = m.at
        return value

    def _place(self, key: Any) -> None:
        if not isinstance(key, str) or key not in self.storages.known or key in self.places:
            self._fault(f"expected the key of a storage, got {shown(key)}")
        storage = self.storages.known[key]
        numel = int.from_bytes(self.data[self.at : self.at + 8], "little", signed=True)
        begin = self.at + 8
        if numel != storage.numel or begin + storage.nbytes > len(self.data):
            self._fault(
                f"storage {shown(key)}: expected {storage.numel} items,"
                f" got {numel} and {max(0, len(self.data) - begin)} bytes"
            )
        self.places[key] = begin
        self.at = begin + storage.nbytes

    def _bytes(self, key: str) -> Array:
        begin = self.places[key]
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
