"""Pickles written to do harm: nothing runs, and neither memory nor time runs away."""

import functools
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import mutations
import pytest

from reclap import pickles
from reclap.errors import FormatError
from reclap.pickles import Opaque

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.fixture
def canary(tmp_path, monkeypatch) -> Path:
    """Return a file in the working directory that the pickles below would make."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "canary"


def write_zip(path: Path, text: bytes, method=zipfile.ZIP_STORED, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as f:
        f.writestr("a/data.pkl", text)
        for name, content in records.items():
            f.writestr(f"a/data/{name.strip('_')}", content)
    return path


def write_legacy(path: Path, text: bytes) -> Path:
    path.write_bytes(MAGIC + b"\x80\x02M\xe9\x03." + b"}." + text + b"].")
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy], ids=["zip", "legacy"])


@functools.cache
def storage(numel: int, kind: str = "Float", key: str = "0") -> bytes:
    """Return the opcodes of a storage."""
    return b"(X\x07\0\0\0storagectorch\n%bStorage\nX\x01\0\0\0%bX\x03\0\0\0cpu\x8a\x08%btQ" % (
        kind.encode(),
        key.encode(),
        numel.to_bytes(8, "little"),
    )


def tensor(content: bytes, offset: int, shape: list[int], strides: list[int]) -> bytes:
    """Return the opcodes of a tensor."""

    def sizes(values):
        return b"(" + b"".join(b"\x8a\x09" + v.to_bytes(9, "little", signed=True) for v in values)

    return (
        TENSOR + b"(" + content + sizes([offset])[1:] + sizes(shape) + b"t" + sizes(strides)
        + b"t\x89}tR"
    )  # fmt: skip


# ---- Nothing runs --------------------------------------------------------------------------------

COMMAND = b"touch canary"
TEXT = b"X\x0c\0\0\0" + COMMAND
RUNS = {
    "GLOBAL, REDUCE": b"cos\nsystem\n" + TEXT + b"\x85R.",
    "GLOBAL of posix": b"cposix\nsystem\n" + TEXT + b"\x85R.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93" + TEXT + b"\x85R.",
    "INST": b"(" + TEXT + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + TEXT + b"o.",
    "NEWOBJ": b"csubprocess\nPopen\n" + TEXT + b"\x85\x81.",
    "NEWOBJ_EX": b"csubprocess\nPopen\n" + TEXT + b"\x85}\x92.",
    "eval": b"cbuiltins\neval\nX\x26\0\0\0__import__('os').system('touch canary')\x85R.",
    "exec of Python 2": b"c__builtin__\nexec\n" + TEXT + b"\x85R.",
    "dotted name": b"\x8c\x08builtins\x8c\x0beval.__call__\x93" + TEXT + b"\x85R.",
    "getattr chain": b"cbuiltins\ngetattr\ncbuiltins\n__import__\nX\x02\0\0\0os\x85R"
    b"X\x06\0\0\0system\x86R" + TEXT + b"\x85R.",
    "BUILD with __setstate__": b"cos\nX\n)R}X\x0c\0\0\0__setstate__cos\nsystem\nsb" + TEXT + b"b.",
    "BUILD of a class": b"cbuiltins\ndict\n}X\x07\0\0\0__new__cos\nsystem\nsb.",
    "extension": b"\x82\x01" + TEXT + b"\x85R.",
    "nested load": b"ctorch\nload\nX\x06\0\0\0canary\x85R.",
    "load of bytes": b"ctorch.storage\n_load_from_bytes\nC\x04N.N.\x85R.",
    "numpy file": b"cnumpy\nload\nX\x06\0\0\0canary\x85R.",
    "rebuild with a callable": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN"
    + TEXT + b"\x85NtR.",
    "rebuild of itself": b"ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0N)NtR.",
    "persistent id": b"(X\x06\0\0\0modulecos\nsystem\nX\x01\0\0\0aX\x01\0\0\0btQ"
    + TEXT + b"\x85R.",
    "default factory": b"ccollections\ndefaultdict\ncos\nsystem\n\x85R.",
}  # fmt: skip


@WRITERS
@pytest.mark.parametrize("name", RUNS)
def test_nothing_runs(name, write, canary):
    path = write(canary.parent / "a.pt", RUNS[name])
    with mutations.watched() as events:
        try:
            result = pickles.read(path)
        except FormatError as error:
            result = error
    assert not events
    assert not canary.exists()
    assert isinstance(result, Opaque) or result == {} or str(path) in str(result)


def test_the_watch_sees_commands(canary):
    with mutations.watched() as events:
        os.system("true")  # noqa: S605, S607
    assert events


def test_harmful_objects_beside_weights_do_not_matter(canary):
    weight = tensor(storage(3), 0, [3], [1])
    text = b"}X\x01\0\0\0w" + weight + b"sX\x01\0\0\0x" + RUNS["GLOBAL, REDUCE"][:-1] + b"s."
    path = write_zip(canary.parent / "a.pt", text, _0=struct.pack("<3f", 1, 2, 3))
    assert pickles.state_dict(path)["w"].tolist() == [1, 2, 3]
    assert not canary.exists()


# ---- Sizes ---------------------------------------------------------------------------------------

HUGE = (2**62).to_bytes(8, "little")
DAMAGED = {
    "BINBYTES8": b"\x8e" + HUGE + b"abc.",
    "BYTEARRAY8": b"\x96" + HUGE + b"abc.",
    "BINUNICODE8": b"\x8d" + HUGE + b"abc.",
    "BINUNICODE": b"X\xff\xff\xff\xffabc.",
    "BINSTRING": b"T\xff\xff\xff\xffabc.",
    "LONG4": b"\x8b\xff\xff\xff\x7f\x01.",
    "LONG4 below zero": b"\x8b\xff\xff\xff\xff\x01.",
    "FRAME": b"\x80\x04\x95" + HUGE + b"N.",
    "GET": b"j\xff\xff\xff\xff.",
    "text GET": b"g99999999999999999999\n.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "float": b"Fabc\n.",
    "no line": b"cos",
    "no mark": b"Nt.",
    "empty stack": b"0.",
    "below the mark": b"N(0R.",
    "odd items": b"}(Nu.",
    "no such opcode": b"\xff.",
    "protocol 6": b"\x80\x06N.",
    "buffer": b"\x97.",
    "not UTF-8": b"X\x01\0\0\0\xff.",
    "quotes": b"Sabc\n.",
    "call of a number": b"K\x01)R.",
    "arguments that are none": b"cos\nsystem\nK\x01R.",
    "items of text": b"X\x01\0\0\0aNa.",
    "state of text": b"X\x01\0\0\0aNb.",
    "key that is a list": b"}]Ns.",
    "key that is nested": b"}" + b")" + b"\x85" * 50 + b"Ns.",
    "key as large as its hash": b"}\x8a\x09" + (2**61 - 1).to_bytes(9, "little") + b"Ns.",
    "long name": b"c" + b"a" * 2000 + b"\nb\n.",
    "name that is none": b"NN\x93.",
    "pairs that are none": b"ccollections\nOrderedDict\n]Na\x85R.",
    "complex": b"cbuiltins\ncomplex\nNN\x86R.",
    "stop missing": b"N",
    "array too short": b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(K\x05tcnumpy\ndtype\n"
    b"X\x02\0\0\0f4\x89\x88\x87R(K\x03X\x01\0\0\0<NNNtb\x89C\x01atb.",
    "array too large": b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(\x8a\x08" + HUGE
    + b"tcnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87R(K\x03X\x01\0\0\0<NNNtb\x89C\x01atb.",
    "persistent text": b"Pabc\n.",
    "persistent number": b"K\x01Q.",
    "storage without record": storage(1, key="9") + b".",
    "storage of no kind": storage(1, "Strange") + b".",
    "storage too short": storage(10) + b".",
    "storage of two kinds": storage(3) + storage(3, "Int") + b"\x86.",
    "tensor behind its storage": tensor(storage(3), 0, [4], [1]) + b".",
    "tensor with an offset": tensor(storage(3), 3, [1], [1]) + b".",
    "tensor with strides": tensor(storage(3), 0, [2], [3]) + b".",
    "tensor below zero": tensor(storage(3), -1, [1], [1]) + b".",
    "strides below zero": tensor(storage(3), 2, [3], [-1]) + b".",
    "tensor beyond any size": tensor(storage(3), 0, [2**59], [0]) + b".",
    "sizes that overflow": tensor(storage(3), 0, [0, 2**59, 2**59], [1, 1, 1]) + b".",
    "strides without sizes": tensor(storage(3), 0, [1], []) + b".",
    "too many axes": tensor(storage(3), 0, [1] * 65, [1] * 65) + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name, tmp_path):
    path = write_zip(tmp_path / "a.pt", DAMAGED[name], _0=struct.pack("<3f", 1, 2, 3))
    with pytest.raises(FormatError, match=r"a\.pt: .*expected"):
        pickles.read(path)


def test_empty_tensor_may_have_any_strides(tmp_path):
    text = tensor(storage(3), 7, [0, 2], [5, 9]) + b"."
    assert pickles.read(write_zip(tmp_path / "a.pt", text, _0=bytes(12))).shape == (0, 2)


def test_list_within_itself_is_refused(tmp_path):
    for text in (b"]q\0h\0a.", b"}q\0X\x01\0\0\0ah\0s.", b"]q\0h\0\x85q\x01a."):
        with pytest.raises(FormatError, match="holds itself"):
            pickles.read(write_zip(tmp_path / "a.pt", text))


BOMBS = {
    "lists": lambda n: b"]" * n + b"a" * (n - 1) + b".",
    "tuples": lambda n: b")" + b"\x85" * n + b".",
    "many lists": lambda n: b"(" + b"]" * n + b"t.",
    "sets": lambda n: b"(" + b"\x8f" * n + b"t.",
    "dictionaries": lambda n: b"(" + b"}NNs" * (n // 4) + b"t.",
    "marks": lambda n: b"(" * n,
    "memo": lambda n: b"N" + b"\x94" * n + b".",
    "pushed and dropped": lambda n: b"N0" * n + b"N.",
    "doubled": lambda n: b"Nq\0" + b"h\0h\0\x86q\0" * (n // 8) + b".",
    "doubled lists": lambda n: b"]q\0" + b"(h\0h\0lq\0" * (n // 8) + b".",
    "bytes made again": lambda n: b"c_codecs\nencode\nq\0X" + (n // 2).to_bytes(4, "little")
    + b"x" * (n // 2) + b"X\6\0\0\0latin1\x86q\x01" + b"h\0h\1R" * (n // 12) + b"N.",
    "list copied again": lambda n: b"cbuiltins\nlist\nq\0(" + b"N" * (n // 2)
    + b"l\x85q\x01" + b"h\0h\1R" * (n // 12) + b"N.",
    "dictionary copied again": lambda n: b"ccollections\nOrderedDict\nq\0(" + b"NN\x86" * (n // 6)
    + b"l\x85q\x01" + b"h\0h\1R" * (n // 12) + b"N.",
    "names": lambda n: b"\x8c\xff" + b"a" * 255 + b"q\0" + b"h\0h\0\x93" * (n // 6) + b".",
    "wide text": lambda n: b"X" + n.to_bytes(4, "little") + b"a" * (n - 4) + "😀".encode() + b".",
    "old text": lambda n: b"V" + b"a" * n + b"\n.",
    "objects": lambda n: b"(ca\nb\nq\0" + b")R" * (n // 2) + b"t.",
    "integer": lambda n: b"\x8b" + n.to_bytes(4, "little") + b"\x7f" * n + b".",
    "tensors": lambda n: TENSOR + b"q\0" + tensor(storage(3), 0, [3], [1])[len(TENSOR) : -1]
    + b"q\x010(" + b"h\0h\1R" * (n // 5) + b"t.",
    "keys in line": lambda n: b"}("
    + b"".join(b"\x8a\x08" + (i << 20).to_bytes(8, "little") + b"N" for i in range(n // 11))
    + b"u.",
}  # fmt: skip


def check_bomb(path: Path) -> None:
    """Read a file in at most twice its size of memory and the reader's constant.

    There is no clock but the limit of every test, which quadratic time in the large files passes.
    """
    message = "expected"
    tracemalloc.start()
    try:
        pickles.read(path)
    except FormatError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + mutations.SLACK
    assert "expected" in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_stays_within_bounds(name, tmp_path):
    check_bomb(write_zip(tmp_path / "a.pt", BOMBS[name](100_000)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_large_bomb_stays_within_bounds(name, tmp_path):
    check_bomb(write_legacy(tmp_path / "a.pt", BOMBS[name](2_000_000)))


def test_expanded_tensors_are_bounded(tmp_path):
    one = tensor(storage(1), 0, [1 << 20], [0])
    path = write_zip(tmp_path / "a.pt", b"(" + one * 4 + b"t.", _0=bytes(4))
    assert [x.shape for x in pickles.read(path)] == [(1 << 20,)] * 4
    write_zip(path, b"(" + one * 9 + b"t.", _0=bytes(4))
    with pytest.raises(FormatError, match="at most 4 times the file's size"):
        pickles.read(path)


def test_compressed_bomb_is_refused(tmp_path):
    text = tensor(storage(25_000_000), 0, [25_000_000], [1]) + b"."
    path = write_zip(tmp_path / "a.pt", text, zipfile.ZIP_DEFLATED, _0=bytes(100_000_000))
    with pytest.raises(FormatError, match="the file's size"):
        pickles.read(path)
    write_zip(path, b"]" * 100_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="the file's size"):
        pickles.read(path)


def test_zip_directory_that_overstates_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.pt", b"N.")
    data = path.read_bytes()
    for at, value in ((12, b"\xff" * 4), (16, b"\xff" * 4), (12, b"\0" * 4)):
        begin = data.rindex(b"PK\x05\x06") + at
        path.write_bytes(data[:begin] + value + data[begin + len(value) :])
        with pytest.raises(FormatError, match=r"a\.pt: .*expected"):
            pickles.read(path)


def test_zip_directory_of_millions_is_not_unfolded(tmp_path):
    """Forty-six bytes of it become an object of hundreds."""
    path = tmp_path / "a.pt"
    entry = b"PK\x01\x02" + bytes(24) + b"\x01" + bytes(17) + b"x"
    directory = entry * 300_000
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0, 0, len(directory), 4, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)
    tracemalloc.start()
    with pytest.raises(FormatError, match="the file's size"):
        pickles.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + mutations.SLACK
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.__setitem__(8, entry[8] | 1), "got it encrypted"),
        (lambda entry: entry.__setitem__(10, 14), "got LZMA"),
        (lambda entry: entry.__setitem__(10, 12), "got bzip2"),
        (lambda entry: entry.__setitem__(10, 77), "got method 77"),
        (lambda entry: entry.__setitem__(20, 1), "expected as many bytes as are stored"),
    ],
)
def test_records_that_are_not_read_are_named(tmp_path, change, message):
    path = write_zip(tmp_path / "a.pt", b"N.")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    entry = data[at:]
    change(entry)
    path.write_bytes(data[:at] + entry)
    with pytest.raises(FormatError, match=rf"record 'a/data\.pkl': .*{message}"):
        pickles.read(path)
