"""Objects that a checkpoint may name: tensors over mapped storages, NumPy values, containers.

`CALLS` is the complete list of what a pickle can call; each entry is a function of this file.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from reclap._types import Array
from reclap.errors import FormatError
from reclap.pickles.machine import Budget, Machine, Opaque, Pending, shown

__all__ = ["CALLS", "ITEM_SIZES", "Array", "Order", "Storage", "Tensor", "is_size"]

Order = Literal["<", ">"]

_TYPES = {  # storage class: its name as a torch.dtype, NumPy's type of one item in the file
    "DoubleStorage": ("float64", "f8"),
    "FloatStorage": ("float32", "f4"),
    "HalfStorage": ("float16", "f2"),
    "BFloat16Storage": ("bfloat16", "u2"),
    "LongStorage": ("int64", "i8"),
    "IntStorage": ("int32", "i4"),
    "ShortStorage": ("int16", "i2"),
    "CharStorage": ("int8", "i1"),
    "ByteStorage": ("uint8", "u1"),
    "BoolStorage": ("bool", "?"),
    "UntypedStorage": ("uint8", "u1"),
    "ComplexFloatStorage": ("complex64", "c8"),
    "ComplexDoubleStorage": ("complex128", "c16"),
}
ITEM_SIZES = {name: np.dtype(code).itemsize for name, (_, code) in _TYPES.items()}
_BY_DTYPE = {f"torch.{dtype}": code for dtype, code in _TYPES.values() if dtype != "bfloat16"} | {
    "torch.bfloat16": "bf16",
    "torch.uint16": "u2",
    "torch.uint32": "u4",
    "torch.uint64": "u8",
}
_NUMPY = {
    *"?",
    "b1",
    *(f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)),
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
}
_MOST_AXES = 32  # NumPy 1's limit


def is_size(value: object) -> bool:
    """Tell whether a value from a file is a count that arithmetic on offsets can use."""
    return type(value) is int and 0 <= value < 2**60


# ---- Tensors -------------------------------------------------------------------------------------


class Storage(Opaque):
    """Storage of a checkpoint, of which tensors are views; read at first use.

    Parameters
    ----------
    kind : str
        Class of the storage, such as FloatStorage.
    numel : int
        Items.
    fetch : callable
        Returns the bytes, read-only uint8; all that are there.
    order : {'<', '>'}
        Byte order of an item.
    """

    __slots__ = ("_fetch", "_items", "budget", "kind", "numel", "order")

    def __init__(
        self, kind: str, numel: int, fetch: Callable[[], Array], order: Order, budget: Budget
    ) -> None:
        super().__init__(f"torch.{kind}")
        self.kind, self.numel, self.order, self.budget = kind, numel, order, budget
        self._fetch = fetch
        self._items: dict[str, Array] = {}

    @property
    def code(self) -> str:
        """NumPy's type of one item, or ``bf16``."""
        return "bf16" if self.kind == "BFloat16Storage" else _TYPES[self.kind][1]

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return self.numel * ITEM_SIZES[self.kind]

    def raw(self) -> Array:
        """Return the bytes."""
        return self._fetch()[: self.nbytes]

    def items(self, code: str) -> Array:
        """Return all items, flat; bfloat16 is widened, once for all tensors that share it."""
        if code not in self._items:
            self._items[code] = self._read(code)
        return self._items[code]

    def _read(self, code: str) -> Array:
        typed = _item(code).newbyteorder(self.order)
        raw = self.raw()
        data = raw[: len(raw) // typed.itemsize * typed.itemsize].view(typed)
        if code == "bf16":
            self.budget.take(4 * len(data))
            wide = data.astype(np.uint32)
            wide <<= 16
            data = wide.view(np.float32)
        elif code == "?":  # in a damaged file a byte may be neither 0 nor 1
            self.budget.take(len(data))
            data = raw != 0
        data.flags.writeable = False
        return data


def _item(code: str) -> np.dtype[Any]:
    return np.dtype("u2" if code == "bf16" else code)


class Tensor(Opaque):
    """A strided view of a storage; making one reads nothing."""

    __slots__ = ("_code", "_offset", "_storage", "_strides", "shape")

    def __init__(
        self, storage: Storage, code: str, offset: int, shape: tuple[int, ...], strides: Any
    ) -> None:
        super().__init__("torch.Tensor")
        self.shape = shape
        self._storage, self._code, self._offset, self._strides = storage, code, offset, strides

    def array(self, where: str) -> Array:
        """Return the tensor as a read-only array: a view where the file holds its type.

        Raises
        ------
        FormatError
            If it is complex, or of a shape that NumPy does not take.
        """
        if self._code.startswith("c"):
            raise FormatError(f"{where}: expected a real tensor, got {self._storage.kind}")
        items = self._storage.items(self._code)
        size = items.itemsize
        try:
            if 0 in self.shape:
                return np.zeros(self.shape, items.dtype)
            steps = [size * n for n in self._strides]
            return np.ndarray(self.shape, items.dtype, items, size * self._offset, steps)
        except ValueError as error:
            raise FormatError(f"{where}: expected a shape that NumPy takes: {error}") from error


def _view(m: Machine, code: str, args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = args
    sizes = (offset, *shape, *strides)
    if not all(map(is_size, sizes)) or len(shape) != len(strides) or len(shape) > _MOST_AXES:
        m.fault("expected offset, sizes and strides of a tensor")
    size = _item(code).itemsize
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and last >= storage.nbytes // size:
        m.fault(
            f"expected a tensor inside its storage of {storage.nbytes // size} items,"
            f" got item {shown(last)}"
        )
    m.budget.claim(count * size)
    m.budget.take(200 + 32 * len(sizes))
    return Tensor(storage, code, offset, shape, strides)


def _tensor(m: Machine, args: tuple[Any, ...]) -> Any:
    match args:
        case (Storage() as storage, _, tuple(), tuple(), *_):
            return _view(m, storage.code, args[:4])
    return Opaque("torch._utils._rebuild_tensor_v2")


def _typed_tensor(m: Machine, args: tuple[Any, ...]) -> Any:
    """Of version 3: the storage is untyped, the sixth argument behind it is the type."""
    match args:
        case (Storage(), _, tuple(), tuple(), _, _, Opaque(name=name), *_) if name in _BY_DTYPE:
            return _view(m, _BY_DTYPE[name], args[:4])
    return Opaque("torch._utils._rebuild_tensor_v3")


def _first(m: Machine, args: tuple[Any, ...]) -> Any:
    if not args:
        m.fault("expected a tensor to make a parameter of")
    return args[0]


def _subclass(m: Machine, args: tuple[Any, ...]) -> Any:
    """_rebuild_from_type_v2(function, class, arguments, state): a tensor with attributes."""
    match args:
        case (Opaque(name=name), _, tuple() as inner, *_) if CALLS.get(name) is not _subclass:
            return m.call(args[0], inner)
    return Opaque("torch._tensor._rebuild_from_type_v2")


# ---- NumPy ---------------------------------------------------------------------------------------


def _dtype(m: Machine, args: tuple[Any, ...]) -> Opaque:
    code = args[0] if args else None

    def finish(m: Machine, state: Any) -> Any:
        match state:
            case (_, "<" | ">" | "|" | "=" as order, *_):
                return np.dtype(code).newbyteorder(order)
        return Opaque(f"numpy.dtype {shown(code)}")

    if isinstance(code, str) and code in _NUMPY:
        return Pending("numpy.dtype", finish)
    return Opaque(f"numpy.dtype {shown(code)}")


def _bytes_of(value: Any) -> bytes | None:
    if isinstance(value, str):  # written by Python 2
        return value.encode("utf-8", "surrogateescape")
    return value if isinstance(value, bytes) else None


def _filled(m: Machine, dtype: Any, shape: Any, content: Any, order: Any) -> Any:
    """Return an array of the bytes, or an Opaque for a type that is not read."""
    if not isinstance(dtype, np.dtype):
        return Opaque("numpy.ndarray")
    if not isinstance(shape, tuple) or not all(map(is_size, shape)) or len(shape) > _MOST_AXES:
        m.fault(f"expected the shape of an array, got {shown(shape)}")
    raw = _bytes_of(content)
    if raw is None or len(raw) != math.prod(shape) * dtype.itemsize:
        m.fault(f"expected the content of an array, got {shown(content)}")
    m.budget.take(200 + len(raw))
    flat = np.frombuffer(raw, np.uint8)
    typed = flat != 0 if dtype.kind == "b" else flat.view(dtype)
    try:
        return typed.reshape(shape, order="F" if order else "C")
    except ValueError as error:
        m.fault(f"expected the shape of an array: {error}")


def _scalar(m: Machine, args: tuple[Any, ...]) -> Any:
    match args:
        case (np.dtype() as dtype, content):
            return _filled(m, dtype, (), content, 0)[()]
    return Opaque("numpy.generic")


def _reconstruct(m: Machine, args: tuple[Any, ...]) -> Pending:
    def finish(m: Machine, state: Any) -> Any:
        match state:
            case (int(), shape, dtype, order, content):
                return _filled(m, dtype, shape, content, order)
            case (shape, dtype, order, content):
                return _filled(m, dtype, shape, content, order)
        m.fault(f"expected the state of an array, got {shown(state)}")

    return Pending("numpy.ndarray", finish)


def _frombuffer(m: Machine, args: tuple[Any, ...]) -> Any:
    match args:
        case (content, dtype, shape, "C" | "F" as order, *_):
            return _filled(m, dtype, shape, content, order == "F")
    m.fault("expected bytes, type, shape and order of an array")


# ---- Python's own --------------------------------------------------------------------------------


def _list_of(m: Machine, args: tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    items = args[0] if args else ()
    if not isinstance(items, list | tuple):
        m.fault(f"expected a list of items, got {shown(items)}")
    m.budget.take(80 + 8 * len(items))
    return items


def _dict(m: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and isinstance(args[0], dict):
        return m.make_dict(args[0].items())
    pairs = _list_of(m, args)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        m.fault("expected pairs of key and value")
    return m.make_dict((key, value) for key, value in pairs)


def _bytes(m: Machine, args: tuple[Any, ...]) -> Any:
    match args:
        case ():
            return b""
        case (bytes() as content,):
            return content
        case (str() as text, "latin1" | "latin-1"):
            m.budget.take(len(text))
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                m.fault("expected bytes as Latin-1 text")
    return Opaque("_codecs.encode")


def _complex(m: Machine, args: tuple[Any, ...]) -> complex:
    match args:
        case (float() as real, float() as imaginary):
            return complex(real, imaginary)
    m.fault("expected two parts of a complex number")


Call = Callable[[Machine, tuple[Any, ...]], Any]
CALLS: Mapping[str, Call] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": lambda m, args: tuple(_list_of(m, args)),
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": call
        for core in ("core", "_core")
        for name, call in {
            "multiarray.scalar": _scalar,
            "multiarray._reconstruct": _reconstruct,
            "numeric._frombuffer": _frombuffer,
        }.items()
    },
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda m, args: _dict(m, args[1:]),
    "_codecs.encode": _bytes,
    **{
        f"{module}.{name}": call
        for module in ("builtins", "__builtin__")
        for name, call in {
            "dict": _dict,
            "list": lambda m, args: list(_list_of(m, args)),
            "tuple": lambda m, args: tuple(_list_of(m, args)),
            "set": lambda m, args: m.make_set(_list_of(m, args)),
            "frozenset": lambda m, args: frozenset(m.make_set(_list_of(m, args))),
            "bytes": _bytes,
            "bytearray": _bytes,
            "complex": _complex,
        }.items()
    },
}
