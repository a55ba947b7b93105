"""The pickle machine on programs of drawn opcodes: as Python's own, or refused.

No opcode among them names or calls anything, so Python's reader may run them too.
"""

import pickle
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from reclap.errors import FormatError
from reclap.pickles.machine import Budget, Machine
from reclap.pickles.opcodes import run

CONSTANTS = [b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f"]
CONSTANTS += [b"I00\n", b"I7\n", b"L-3L\n", b"F2.5\n"]
STACK = [b"(", b"(", b"0", b"1", b"2", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"\x85", b"\x86",
         b"\x87", b"\x90", b"\x91", b"\x94", b"q\0", b"q\1", b"h\0", b"h\1", b"r\2\0\0\0",
         b"j\2\0\0\0"]  # fmt: skip
small = st.integers(0, 255).map(lambda n: b"K" + bytes([n]))
wide = st.integers(-(2**31), 2**31 - 1).map(lambda n: b"J" + struct.pack("<i", n))
real = st.floats(allow_nan=False).map(lambda x: b"G" + struct.pack(">d", x))
text = st.text(max_size=5).map(lambda s: b"\x8c" + bytes([len(s.encode())]) + s.encode())
raw = st.binary(max_size=5).map(lambda s: b"C" + bytes([len(s)]) + s)
values = st.one_of(st.sampled_from(CONSTANTS), small, wide, real, text, raw)
steps = st.one_of(values, st.sampled_from(STACK))
# Values, and what gathers them: programs that most often work.
gathered = st.recursive(
    values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda x: b"(" + b"".join(x) + b"t"),
        st.lists(inner, max_size=4).map(lambda x: b"](" + b"".join(x) + b"e"),
        st.lists(st.tuples(small, inner), max_size=4).map(
            lambda x: b"}(" + b"".join(k + v for k, v in x) + b"u"
        ),
        st.lists(small, max_size=4).map(lambda x: b"\x8f(" + b"".join(x) + b"\x90"),
        st.lists(small, max_size=4).map(lambda x: b"(" + b"".join(x) + b"\x91"),
        inner.map(lambda x: x + b"\x85"),
    ),
    max_leaves=12,
)


def ours(program):
    def refuse(m, pid):
        m.fault("no storages here")

    budget = Budget("drawn", len(program))
    return run(Machine(program, 0, len(program), budget, {}, refuse))


def same(a, b, depth=20):
    """Compare without recursing into what holds itself."""
    if depth == 0 or type(a) is not type(b):
        return depth == 0
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, depth - 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k], depth - 1) for k in a)
    return a == b


@settings(max_examples=300, deadline=None)
@given(gathered, st.lists(steps, max_size=3))
def test_programs_that_work_give_what_python_gives(program, more):
    program += b"".join(more) + b"."
    try:
        want = pickle.loads(program)  # noqa: S301
    except Exception:
        want = None
    try:
        got = ours(program)
    except FormatError:
        return
    if want is not None:
        assert same(got, want)


@settings(max_examples=300, deadline=None)
@given(gathered)
def test_whole_values_are_read(program):
    assert same(ours(program + b"."), pickle.loads(program + b"."))  # noqa: S301


@settings(max_examples=500, deadline=None)
@given(st.lists(steps, max_size=40), st.binary(max_size=3))
def test_any_program_ends_or_is_refused(parts, end):
    try:
        ours(b"".join(parts) + end + b".")
    except FormatError as error:
        assert "drawn: " in str(error)  # noqa: PT017
