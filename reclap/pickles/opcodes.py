"""Opcodes of pickles, protocols 0 to 5, and the loop that runs them."""

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from reclap.pickles.machine import Machine, shown

__all__ = ["run"]

_STOP = ord(".")
_MOST_STEPS = 2_000_000  # ReCLAP with optimizer state needs some 100,000
_OBJECT = 130  # bytes that a thing takes, rounded up


def run(m: Machine) -> Any:
    """Run a pickle to its end and return the object.

    Raises
    ------
    FormatError
        If the pickle is damaged, truncated, or exceeds its budget.
    """
    for _ in range(_MOST_STEPS):
        code = m.opcode()
        if code == _STOP:
            return m.pop()
        step = _OPCODES.get(code)
        if step is None:
            m.fault(f"expected an opcode of a pickle, got {code:#04x}")
        step(m)
    m.fault(f"expected at most {_MOST_STEPS:,} opcodes")


Step = Callable[[Machine], None]


def _constant(value: Any) -> Step:
    return lambda m: m.push(value)


def _integer(width: int, *, signed: bool = False) -> Step:
    return lambda m: m.push(m.number(width, signed=signed))


def _sized(width: int, make: Callable[[Machine, bytes], Any], *, signed: bool = False) -> Step:
    def step(m: Machine) -> None:
        m.budget.take(_OBJECT)
        m.push(make(m, m.take(m.number(width, signed=signed))))

    return step


def _on_line(make: Callable[[Machine, bytes], Any]) -> Step:
    def step(m: Machine) -> None:
        m.budget.take(_OBJECT)
        m.push(make(m, m.line()))

    return step


def _raw(m: Machine, raw: bytes) -> bytes:
    return raw


def _text(m: Machine, raw: bytes) -> str:
    return m.text(raw)


def _old_text(m: Machine, raw: bytes) -> str:
    return m.text(raw, "surrogateescape")  # Python 2: text or bytes; both can be had from this


def _long(m: Machine, raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _int_line(m: Machine, raw: bytes) -> int:
    return raw == b"01" if raw in (b"00", b"01") else m.decimal(raw)


def _float_line(m: Machine, raw: bytes) -> float:
    try:
        return float(raw[:1000])
    except ValueError:
        m.fault(f"expected a number, got {shown(raw)}")


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _string_line(m: Machine, raw: bytes) -> str:
    if len(raw) < 2 or raw[0] != raw[-1] or raw[:1] not in (b"'", b'"'):
        m.fault(f"expected a quoted string, got {shown(raw)}")
    return _old_text(m, _ESCAPE.sub(_unescape, raw[1:-1]))


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES.get(code, code)


def _unicode_line(m: Machine, raw: bytes) -> str:
    m.budget.take(4 * len(raw))
    try:
        return codecs.raw_unicode_escape_decode(raw)[0]
    except UnicodeDecodeError as error:
        m.fault(f"expected escaped text: {error.reason}")


def _float(m: Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def _proto(m: Machine) -> None:
    version = m.number(1)
    if version > 5:
        m.fault(f"expected a pickle of protocol 0 to 5, got {version}")


def _frame(m: Machine) -> None:
    length = m.number(8)
    if length > m.end - m.at:
        m.fault(f"expected a frame of {length} bytes, {m.end - m.at} are left")


def _mark(m: Machine) -> None:
    m.marks.append(len(m.stack))


def _pop(m: Machine) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()


def _pop_mark(m: Machine) -> None:
    m.items()


def _tuple(count: int) -> Step:
    def step(m: Machine) -> None:
        m.budget.take(_OBJECT)
        items = [m.pop() for _ in range(count)]
        m.push(tuple(items[::-1]))

    return step


def _marked_tuple(m: Machine) -> None:
    m.budget.take(_OBJECT)
    m.push(tuple(m.items()))


def _empty_list(m: Machine) -> None:
    m.budget.take(_OBJECT)
    m.push([])


def _marked_list(m: Machine) -> None:
    m.budget.take(_OBJECT)
    m.push(m.items())


def _pairs(m: Machine) -> list[tuple[Any, Any]]:
    items = m.items()
    if len(items) % 2:
        m.fault("expected keys and values")
    m.budget.take(_OBJECT * (len(items) // 2))
    return list(zip(items[::2], items[1::2], strict=True))


def _append(m: Machine) -> None:
    item = m.pop()
    m.add(m.top(), [item])


def _appends(m: Machine) -> None:
    items = m.items()
    m.add(m.top(), items)


def _setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.fill(m.top(), [(key, value)])


def _setitems(m: Machine) -> None:
    pairs = _pairs(m)
    m.fill(m.top(), pairs)


def _global(m: Machine) -> None:
    module = m.text(m.line())
    m.push(m.named(module, m.text(m.line())))


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.named(module, name))


def _extension(width: int) -> Step:
    return lambda m: m.push(m.named("copyreg", f"extension{m.number(width)}"))


def _reduce(m: Machine) -> None:
    arguments, callee = m.pop(), m.pop()
    m.push(m.call(callee, arguments))


def _newobj_ex(m: Machine) -> None:
    _, arguments, callee = m.pop(), m.pop(), m.pop()
    m.push(m.call(callee, arguments))


def _inst(m: Machine) -> None:
    module = m.text(m.line())
    callee = m.named(module, m.text(m.line()))
    m.push(m.call(callee, tuple(m.items())))


def _obj(m: Machine) -> None:
    items = m.items()
    if not items:
        m.fault("expected a class")
    m.push(m.call(items[0], tuple(items[1:])))


def _build(m: Machine) -> None:
    state = m.pop()
    m.build(state)


def _out_of_band(m: Machine) -> None:
    m.fault("expected all content in the file, got a buffer that was kept elsewhere")


_OPCODES: dict[int, Step] = {
    0x80: _proto,
    0x95: _frame,
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): lambda m: m.push(m.top()),
    # Constants and numbers
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("I"): _on_line(_int_line),
    ord("L"): _on_line(Machine.decimal),
    ord("F"): _on_line(_float_line),
    ord("J"): _integer(4, signed=True),
    ord("K"): _integer(1),
    ord("M"): _integer(2),
    ord("G"): _float,
    0x8A: _sized(1, _long),
    0x8B: _sized(4, _long, signed=True),
    # Text and bytes
    ord("S"): _on_line(_string_line),
    ord("V"): _on_line(_unicode_line),
    ord("T"): _sized(4, _old_text, signed=True),
    ord("U"): _sized(1, _old_text),
    ord("X"): _sized(4, _text),
    0x8C: _sized(1, _text),
    0x8D: _sized(8, _text),
    ord("B"): _sized(4, _raw),
    ord("C"): _sized(1, _raw),
    0x8E: _sized(8, _raw),
    0x96: _sized(8, _raw),
    0x97: _out_of_band,
    0x98: _out_of_band,
    # Containers
    ord(")"): _constant(()),
    ord("t"): _marked_tuple,
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("]"): _empty_list,
    ord("l"): _marked_list,
    ord("a"): _append,
    ord("e"): _appends,
    ord("}"): lambda m: m.push(m.make_dict([])),
    ord("d"): lambda m: m.push(m.make_dict(_pairs(m))),
    ord("s"): _setitem,
    ord("u"): _setitems,
    0x8F: lambda m: m.push(m.make_set([])),
    0x90: _appends,
    0x91: lambda m: m.push(frozenset(m.make_set(m.items()))),
    # The memo
    ord("p"): lambda m: m.put(m.decimal(m.line())),
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.get(m.decimal(m.line())),
    ord("h"): lambda m: m.get(m.number(1)),
    ord("j"): lambda m: m.get(m.number(4)),
    # Names and objects
    ord("c"): _global,
    0x93: _stack_global,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
    ord("R"): _reduce,
    0x81: _reduce,
    0x92: _newobj_ex,
    ord("i"): _inst,
    ord("o"): _obj,
    ord("b"): _build,
    ord("P"): lambda m: m.push(m.persistent(m, m.text(m.line()))),
    ord("Q"): lambda m: m.push(m.persistent(m, m.pop())),
}
