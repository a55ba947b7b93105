"""State of a pickle machine that builds data and nothing else.

Nothing is imported and nothing of the pickle's choosing is called. A name that the pickle mentions
becomes an `Opaque`; calling it runs one of the reader's own functions if the name is listed, and
otherwise gives an `Opaque` again, which swallows whatever state, items or entries follow. Every
length is compared with the bytes that are there, and all that is built is paid from a `Budget`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from reclap.errors import FormatError

__all__ = ["Budget", "Machine", "Opaque", "Pending", "shown"]

_SLACK = 1 << 25  # bytes; what the objects of an honest file of any size may take beside it
_LONGEST_NAME = 1000
_STEP, _OBJECT, _ENTRY, _PUT = 16, 130, 110, 120  # bytes that a thing takes, rounded up
_SET = 260


class Opaque:
    """Placeholder of a class, a function or an object that is not read.

    Parameters
    ----------
    name : str
        Name of the class or function, with its module.

    Examples
    --------
    >>> Opaque("argparse.Namespace").name
    'argparse.Namespace'
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """Return the name, marked as such."""
        return f"Opaque({self.name!r})"


class Pending(Opaque):
    """An object whose content follows in a BUILD opcode, after which it is replaced.

    Attributes
    ----------
    finish : callable
        Takes the machine and the state, and returns the object.
    slot : int or None
        Index in the memo.
    """

    __slots__ = ("finish", "slot")

    def __init__(self, name: str, finish: Callable[["Machine", Any], Any]) -> None:
        super().__init__(name)
        self.finish = finish
        self.slot: int | None = None


class Budget:
    """Budget of memory for reading one file, whatever the file says.

    Memory is 2 bytes for each byte of the file and 32 MiB for the objects; tensors may claim, by
    sharing or repeating bytes, 4 times what the file has and 32 MiB.
    """

    def __init__(self, where: str, size: int) -> None:
        self.where = where
        self._left = 2 * size + _SLACK
        self._claims = 4 * size + _SLACK

    def take(self, n: int) -> None:
        """Account for memory about to be taken."""
        self._left -= n
        if self._left < 0:
            raise FormatError(f"{self.where}: expected objects that fit in 2 times the file's size")

    def claim(self, n: int) -> None:
        """Account for the bytes that a tensor would have if it were copied."""
        self._claims -= n
        if self._claims < 0:
            raise FormatError(f"{self.where}: expected tensors of at most 4 times the file's size")


def shown(value: object) -> str:
    """Return a short text for a message; values from files can be huge or nested without end."""
    if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 2**64):
        return repr(value)
    if isinstance(value, str | bytes):
        return repr(value[:80]) + ("..." if len(value) > 80 else "")
    if isinstance(value, Opaque):
        return value.name
    return f"a {type(value).__name__}"


class Machine:
    """Stack and memo of one pickle; `reclap.pickles.opcodes.run` runs it.

    Parameters
    ----------
    data : bytes or mmap
        Holds the pickle from `begin`, and nothing of it from `end` on.
    budget : Budget
        Pays for all that is built; names the file in messages.
    calls : mapping of str to callable
        The functions that may be called, by the names of what they stand for. Each takes the
        machine and the arguments.
    persistent : callable
        Takes the machine and a persistent id, and returns the object.

    Attributes
    ----------
    at : int
        The next byte; after the run the one behind the pickle.
    stack, marks, memo : list, list, dict
        Stack of the pickle module; a mark is a length of the stack.
    """

    def __init__(
        self,
        data: Any,
        begin: int,
        end: int,
        budget: Budget,
        calls: Mapping[str, Callable[["Machine", tuple[Any, ...]], Any]],
        persistent: Callable[["Machine", Any], Any],
    ) -> None:
        self.at, self.budget, self.persistent = begin, budget, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._data, self.end, self._calls = data, end, calls

    def fault(self, message: str) -> NoReturn:
        """Raise a FormatError that names the file and the offset."""
        raise FormatError(f"{self.budget.where}: pickle at byte {self.at}: {message}")

    # ---- Bytes

    def take(self, n: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= n <= self.end - self.at:
            self.fault(f"expected {n} more bytes, {self.end - self.at} are left")
        self.budget.take(_STEP + n)
        self.at += n
        part: bytes = self._data[self.at - n : self.at]
        return part

    def opcode(self) -> int:
        """Return the next byte, and pay for what it may push."""
        if self.at >= self.end:
            self.fault("expected 1 more bytes, 0 are left")
        self.budget.take(_STEP + 1)
        self.at += 1
        code: int = self._data[self.at - 1]
        return code

    def number(self, width: int, *, signed: bool = False) -> int:
        """Return the next little-endian integer."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> bytes:
        """Return the bytes up to the next line feed."""
        end = self._data.find(b"\n", self.at, self.end)
        if end < 0:
            self.fault("expected a line")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def text(self, raw: bytes, errors: str = "surrogatepass") -> str:
        """Decode UTF-8."""
        if not raw.isascii():
            self.budget.take(4 * len(raw))
        try:
            return raw.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            self.fault(f"expected UTF-8: {error.reason}")

    def decimal(self, raw: bytes) -> int:
        """Return the number that a line spells."""
        if not re.fullmatch(rb"[+-]?\d{1,1000}L?", raw):
            self.fault(f"expected an integer, got {shown(raw)}")
        return int(raw.rstrip(b"L"))

    # ---- Stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def top(self) -> Any:
        """Return the last value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fault("expected a value on the stack")
        return self.stack[-1]

    def pop(self) -> Any:
        """Remove and return the last value above the last mark."""
        self.top()
        return self.stack.pop()

    def items(self) -> list[Any]:
        """Remove and return what lies above the last mark, and the mark."""
        if not self.marks:
            self.fault("expected a mark on the stack")
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        self.budget.take(8 * len(items))
        return items

    def put(self, slot: int) -> None:
        """Remember the last value."""
        self.budget.take(_PUT)
        value = self.top()
        self.memo[slot] = value
        if isinstance(value, Pending):
            value.slot = slot

    def get(self, slot: int) -> None:
        """Push a value that was remembered."""
        if slot not in self.memo:
            self.fault(f"expected a value under {shown(slot)} in the memo")
        self.push(self.memo[slot])

    # ---- Objects

    def named(self, module: Any, name: Any) -> Opaque:
        """Return the stand-in for something of a module."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.fault(f"expected a name, got {shown(module)} and {shown(name)}")
        if len(module) + len(name) > _LONGEST_NAME:
            self.fault(f"expected a name of at most {_LONGEST_NAME} letters")
        self.budget.take(_OBJECT + len(module) + len(name))
        return Opaque(f"{module}.{name}")

    def call(self, callee: Any, arguments: Any) -> Any:
        """Return the result of a listed function, or a stand-in."""
        if not isinstance(callee, Opaque) or not isinstance(arguments, tuple):
            self.fault(f"expected a name and its arguments, got {shown(callee)}")
        self.budget.take(_OBJECT)
        function = self._calls.get(callee.name)
        return Opaque(callee.name) if function is None else function(self, arguments)

    def build(self, state: Any) -> None:
        """Give the last value its state; only what is `Pending` takes notice."""
        target = self.top()
        if isinstance(target, Pending):
            value = self.stack[-1] = target.finish(self, state)
            slot = target.slot
            if slot is not None and self.memo.get(slot) is target:
                self.memo[slot] = value
        elif not isinstance(target, Opaque | dict):
            self.fault(f"expected an object to give state to, got {shown(target)}")

    def make_dict(self, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        """Return a new dictionary."""
        made: dict[Any, Any] = {}
        self.budget.take(_OBJECT)
        self.fill(made, pairs)
        return made

    def fill(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Add entries to a dictionary."""
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            self.fault(f"expected a dictionary to add to, got {shown(target)}")
        for key, value in pairs:
            self.budget.take(_ENTRY)
            target[self.key(key)] = value

    def add(self, target: Any, items: Iterable[Any]) -> None:
        """Add items to a list or a set."""
        if isinstance(target, list):
            for item in items:
                self.budget.take(_STEP)
                target.append(item)
        elif isinstance(target, set):
            for item in items:
                self.budget.take(_ENTRY)
                target.add(self.key(item))
        elif not isinstance(target, Opaque):
            self.fault(f"expected a list to add to, got {shown(target)}")

    def make_set(self, items: Iterable[Any]) -> set[Any]:
        """Return a new set."""
        made: set[Any] = set()
        self.budget.take(_SET)
        self.add(made, items)
        return made

    def key(self, value: Any) -> Any:
        """Return a value that may be a key: its hash is quick and does not collide at will."""
        if not _is_key(value, 2):
            self.fault(f"expected a plain key, got {shown(value)}")
        return value


def _is_key(value: Any, depth: int) -> bool:
    if type(value) is tuple:  # hashing nested tuples can take exponential time or all of the stack
        return depth > 0 and len(value) <= 16 and all(_is_key(x, depth - 1) for x in value)
    if type(value) is int:  # multiples of 2**61 - 1 share one hash
        return abs(value) < 2**60
    return value is None or isinstance(value, str | bytes | float | bool | Opaque)
