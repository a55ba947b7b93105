"""Checkpoints of torch.save: values as torch.load gives them, without reading what is skipped."""

import argparse
import collections
import functools
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest
from needs import needs

from reclap import pickles
from reclap.errors import FormatError
from reclap.pickles import Opaque

torch = needs("torch", "oracle")
pytestmark = pytest.mark.oracle

CONTAINERS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def save(value, path: Path, *, legacy: bool = False, **options) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def as_arrays(value):
    """Return what torch.load gave with NumPy arrays in it."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, dict):
        return {key: as_arrays(x) for key, x in value.items()}
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(map(as_arrays, value))
    return bytes(value) if isinstance(value, bytearray) else value


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, strict=True)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            assert_same(x, y)
    else:
        assert ours == theirs


def same_as_torch(path: Path):
    ours = pickles.read(path)
    assert_same(ours, as_arrays(torch.load(path, weights_only=False)))
    return ours


def resave(path: Path, change, method=zipfile.ZIP_STORED) -> Path:
    """Write a zip file again, each (name, content) as `change` returns it."""
    with zipfile.ZipFile(path) as f:
        entries = [(name, f.read(name)) for name in f.namelist()]
    with zipfile.ZipFile(path, "w", method) as f:
        for name, content in filter(None, (change(*entry) for entry in entries)):
            f.writestr(name, content)
    return path


# ---- Values --------------------------------------------------------------------------------------


TENSORS = {
    "float32": lambda: torch.randn(3, 4),
    "float64": lambda: torch.randn(5, dtype=torch.float64),
    "float16": lambda: torch.randn(5).half(),
    "bfloat16": lambda: torch.randn(5, 3).bfloat16(),
    "int64": lambda: torch.arange(-3, 4),
    "int32": lambda: torch.arange(7, dtype=torch.int32),
    "int16": lambda: torch.arange(7, dtype=torch.int16),
    "int8": lambda: torch.arange(-3, 4, dtype=torch.int8),
    "uint8": lambda: torch.arange(7, dtype=torch.uint8),
    "uint16": lambda: torch.arange(7).to(torch.uint16),
    "bool": lambda: torch.tensor([[True, False], [False, True]]),
    "scalar": lambda: torch.tensor(2.5),
    "empty": lambda: torch.zeros(0),
    "empty, two axes": lambda: torch.zeros(3, 0),
    "transposed": lambda: torch.randn(3, 4).t(),
    "every other": lambda: torch.randn(10)[1::2],
    "inner block": lambda: torch.randn(6, 7)[2:4, 3:6],
    "bfloat16 block": lambda: torch.randn(6, 7).bfloat16()[2:4, 3:6],
    "expanded": lambda: torch.randn(1, 3).expand(4, 3),
    "parameter": lambda: torch.nn.Parameter(torch.randn(3)),
    "constant": lambda: torch.nn.Parameter(torch.arange(3), requires_grad=False),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


@CONTAINERS
@pytest.mark.parametrize("name", TENSORS)
def test_tensor_is_that_of_torch(name, legacy, tmp_path):
    if legacy and name == "uint16":
        pytest.skip("torch reads no such legacy file itself")
    same_as_torch(save({"x": TENSORS[name]()}, tmp_path / "a.pt", legacy=legacy))


@CONTAINERS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_those_of_torch(legacy, protocol, tmp_path):
    value = {
        "none": None, "yes": True, "no": False, "text": "ü€😀" * 99, "bytes": b"\0\xff" * 200,
        "ints": [0, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**63, -(10**40)],
        "floats": (0.1, -1e300, float("inf")), "empty": ((), [], {}, set(), "", b""),
        "set": {1, "a", (2, None)}, "frozen": frozenset({3}), "complex": 1 - 2j,
        "bytearray": bytearray(b"xyz"), 7: "int key", (1, 2): "tuple key", None: "none key",
        "long list": list(range(3000)), "long dict": {str(i): i for i in range(3000)},
        "size": torch.Size([2, 3]), "large": "x" * 70_000,
    }  # fmt: skip
    path = save(value, tmp_path / "a.pt", legacy=legacy, pickle_protocol=protocol)
    assert_same(pickles.read(path), value | {"bytearray": b"xyz", "size": (2, 3)})


@CONTAINERS
def test_dictionaries_of_collections_become_plain(legacy, tmp_path):
    value = collections.OrderedDict(b=1, a=2)
    value.note = "an attribute"
    whole = [value, collections.defaultdict(list, x=[1]), collections.Counter("aab")]
    ours = pickles.read(save(whole, tmp_path / "a.pt", legacy=legacy))
    assert_same(ours, [{"b": 1, "a": 2}, {"x": [1]}, {"a": 2, "b": 1}])


NUMPY = {
    "float64": np.float64(0.001),
    "float32": np.float32(1.5),
    "int64": np.int64(-3),
    "bool": np.bool_(True),
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big-endian": np.arange(4, dtype=">f4"),
    "bool array": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "scalar array": np.array(2.5),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("old", [False, True], ids=["_core", "core"])
@pytest.mark.parametrize("name", NUMPY)
def test_numpy_value_is_that_of_torch(name, old, protocol, tmp_path):
    value = {"x": NUMPY[name], "again": NUMPY[name], "dtype": np.asarray(NUMPY[name]).dtype}
    path = save(value, tmp_path / "a.pt", pickle_protocol=protocol)
    if old and protocol == 2:  # whose names carry no length

        def rename(name, content):
            return name, content.replace(b"cnumpy._core.", b"cnumpy.core.")

        path = resave(path, rename)
    ours = pickles.read(path)
    assert type(ours["x"]) is type(value["x"])
    np.testing.assert_array_equal(ours["x"], value["x"])
    np.testing.assert_array_equal(ours["again"], value["x"])
    assert ours["dtype"] == value["dtype"]


class Strange(dict):
    """A class that the reader does not know, with items and state."""


@CONTAINERS
def test_unknown_objects_are_opaque(legacy, tmp_path):
    strange = Strange(a=1)
    strange.note = [1]
    whole = {
        "args": argparse.Namespace(lr=1),
        "strange": strange,
        "function": functools.partial(print, 1),
        "class": Path,
        "path": Path("a"),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "objects": np.array([None, {}], object),
        "text": np.array(["a", "bc"]),
        "after": 1,
    }
    ours = pickles.read(save(whole, tmp_path / "a.pt", legacy=legacy))
    assert ours.pop("after") == 1
    assert all(isinstance(x, Opaque) for x in ours.values())
    assert ours["args"].name == "argparse.Namespace"
    assert repr(ours["strange"]) == f"Opaque('{__name__}.Strange')"


def test_storages_are_arrays_and_shared_tensors_share(tmp_path):
    x, y = torch.randn(4, 4), torch.randn(2)
    whole = {"x": x, "row": x[1], "column": x[:, 2], "same": x, "raw": y.untyped_storage()}
    ours = pickles.read(save(whole, tmp_path / "a.pt"))
    assert ours["x"] is ours["same"]
    assert np.shares_memory(ours["x"], ours["row"])
    np.testing.assert_array_equal(ours["column"], x[:, 2].numpy())
    assert ours["raw"].tobytes() == y.numpy().tobytes()


def test_arrays_are_read_only(tmp_path):
    ours = pickles.read(save([torch.zeros(2), torch.zeros(2).bfloat16()], tmp_path / "a.pt"))
    assert not any(x.flags.writeable for x in ours)


@CONTAINERS
def test_complex_tensor_is_refused_only_when_wanted(legacy, tmp_path):
    whole = {"model": {"w": torch.ones(2)}, "optimizer": {"z": torch.ones(2, dtype=torch.cfloat)}}
    path = save(whole, tmp_path / "a.pt", legacy=legacy)
    assert list(pickles.state_dict(path)) == ["w"]
    with pytest.raises(FormatError, match=r"a\.pt.*expected a real tensor, got ComplexFloat"):
        pickles.read(path)


# ---- Containers ----------------------------------------------------------------------------------


def test_compressed_records_are_read(tmp_path):
    path = save({"x": torch.randn(100), "b": torch.ones(9).bfloat16()}, tmp_path / "a.pt")
    want = as_arrays(torch.load(path))
    assert_same(pickles.read(resave(path, lambda *e: e, zipfile.ZIP_DEFLATED)), want)


@pytest.mark.parametrize("folder", ["", "archive", "some/where"])
def test_records_may_lie_in_any_folder(folder, tmp_path):
    path = save({"x": torch.arange(3)}, tmp_path / "a.pt")
    resave(
        path, lambda name, content: (name.replace("a/", f"{folder}/" * bool(folder), 1), content)
    )
    assert pickles.read(path)["x"].tolist() == [0, 1, 2]


def test_big_endian_records_are_read(tmp_path):
    path = save({"x": torch.arange(3), "b": torch.ones(2).bfloat16()}, tmp_path / "a.pt")

    def swap(name, content):
        if name.endswith("/byteorder"):
            return name, b"big"
        if name.endswith("data/0"):
            return name, np.frombuffer(content, "<i8").astype(">i8").tobytes()
        if name.endswith("data/1"):
            return name, np.frombuffer(content, "<u2").astype(">u2").tobytes()
        return name, content

    ours = pickles.read(resave(path, swap))
    assert ours["x"].tolist() == [0, 1, 2]
    assert ours["b"].tolist() == [1, 1]


def test_views_of_legacy_storages_are_read(tmp_path):
    """PyTorch 0.4 and before wrote storages that are parts of others."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Part) else None

    path = tmp_path / "a.pth"
    with path.open("wb") as f:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, f, 2)
        Pickler(f, 2).dump([Part(1, 2), Part(0, 4)])
        pickle.dump(["root"], f, 2)
        f.write((4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes())
    part, whole = pickles.read(path)
    assert part.tolist() == [1, 2]
    assert whole.tolist() == [0, 1, 2, 3]
    broken = path.read_bytes().replace(b"K\x01K\x02", b"K\x03K\x02")
    path.write_bytes(broken)
    with pytest.raises(FormatError, match="expected a part of a storage of 4 items"):
        pickles.read(path)


class Part:
    """Part of a legacy storage of four floats."""

    def __init__(self, offset, numel):
        view = (f"view{offset}", offset, numel)
        self.pid = ("storage", torch.FloatStorage, "root", "cpu", 4, view)


# ---- State dicts ---------------------------------------------------------------------------------


@CONTAINERS
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 1},
        lambda w: {"model": w},
        lambda w: {"module": w, "step": torch.tensor(1)},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {"net": w, "optimizer": {"x": torch.ones(1)}},
        lambda w: {"state_dict": {f"module.{k}": x for k, x in w.items()}},
        lambda w: {"state_dict": collections.OrderedDict(w), "args": argparse.Namespace(a=1)},
    ],
)
def test_state_dict_is_found(wrap, legacy, tmp_path):
    weights = {"a.weight": torch.randn(2, 3), "module_b.bias": torch.randn(3)}
    ours = pickles.state_dict(save(wrap(weights), tmp_path / "a.pt", legacy=legacy))
    assert_same(ours, as_arrays(weights))


def test_prefix_stays_where_one_name_lacks_it(tmp_path):
    weights = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(pickles.state_dict(save(weights, tmp_path / "a.pt"))) == ["module.a", "b"]


def test_skipped_weights_are_left_out(tmp_path):
    names = ("audio.head.weight", "audio.header", "audio.norm", "text", "step")
    weights = {f"module.{name}": torch.ones(1) for name in names}
    ours = pickles.state_dict(save(weights, tmp_path / "a.pt"), skip=["audio.head", "text"])
    assert list(ours) == ["audio.header", "audio.norm", "step"]


@CONTAINERS
def test_trained_checkpoint_is_that_of_torch(legacy, tmp_path):
    for data in mutations.torch_files(legacy=legacy):
        path = tmp_path / "a.pt"
        path.write_bytes(data)
        same_as_torch(path)
        theirs = torch.load(path, weights_only=False)
        theirs = as_arrays(theirs.get("state_dict", theirs))
        ours = pickles.state_dict(path)
        assert_same(ours, {name.removeprefix("module."): x for name, x in theirs.items()})


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="keeps freed memory")
@CONTAINERS
def test_large_file_is_mapped_and_optimizer_state_not_read(legacy, tmp_path):
    """Of 50 MB, less than one is read; pages of a mapping count when touched."""
    resident = Path("/proc/self/statm")
    if not resident.exists():
        pytest.skip("needs /proc")

    def pages():
        return int(resident.read_text().split()[1]) * 4096

    weights = {f"w{i}": torch.randn(100, 4096) for i in range(10)}
    moments = {f"m{i}": torch.randn(100, 4096) for i in range(20)}
    path = save({"state_dict": weights, "optimizer": moments}, tmp_path / "a.pt", legacy=legacy)
    before = pages()
    ours = pickles.state_dict(path)
    assert pages() - before < 4 << 20
    assert_same(ours, as_arrays(weights))
    assert pages() - before < 24 << 20


def test_whole_module_is_refused_with_advice(tmp_path):
    path = save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(FormatError, match="Linear; save its state_dict"):
        pickles.state_dict(path)


@pytest.mark.parametrize(
    "value", [3, [torch.ones(1)], {"epoch": 1}, {"optimizer": {"a": torch.ones(1)}}]
)
def test_file_without_weights_is_refused(value, tmp_path):
    with pytest.raises(FormatError, match=r"a\.pt: expected a state dict, got"):
        pickles.state_dict(save(value, tmp_path / "a.pt"))


def test_sparse_weight_is_refused(tmp_path):
    path = save({"a": torch.ones(1), "s": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="'s': expected a dense tensor"):
        pickles.state_dict(path)


# ---- Files that are none -------------------------------------------------------------------------


def test_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        pickles.read(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"\n<!DOCTYPE html><html>", "got a web page in its place"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "got a pointer of git-lfs"),
        (b"\x40\0\0\0\0\0\0\0{}", "looks like a safetensors file; call it .safetensors"),
        (b"RIFF", "begins with b'RIFF'"),
        (pickle.dumps({"a": 1}), "another pickle"),
        (pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(7), "expected version 1001, got 7"),
        (b"PK\x03\x04" + bytes(100), "is the file complete"),
    ],
)
def test_other_file_is_refused(data, message, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"a\.pt: .*{message}"):
        pickles.read(path)


def test_zip_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as f:
        f.writestr("readme", "hello")
    with pytest.raises(FormatError, match=r"expected a record data\.pkl"):
        pickles.read(tmp_path / "a.zip")


@CONTAINERS
def test_every_cut_is_noticed(legacy, tmp_path):
    path = tmp_path / "a.pt"
    data = mutations.torch_files(legacy=legacy)[1]
    for length in range(len(data) - 100, 0, -97):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match=r"a\.pt"):
            pickles.read(path)


def test_missing_record_is_named(tmp_path):
    path = save({"x": torch.ones(3)}, tmp_path / "a.pt")
    resave(path, lambda name, content: None if name == "a/data/0" else (name, content))
    with pytest.raises(FormatError, match="expected a record 'a/data/0'"):
        pickles.read(path)


def test_short_record_is_named(tmp_path):
    path = save({"x": torch.ones(3)}, tmp_path / "a.pt")
    resave(path, lambda name, content: (name, content[:8] if name == "a/data/0" else content))
    with pytest.raises(FormatError, match="expected 12 bytes in record 'a/data/0', got 8"):
        pickles.read(path)


# ---- Without torch -------------------------------------------------------------------------------


def test_reader_does_not_import_torch():
    code = "import sys; from reclap import pickles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


# ---- Mutations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
@CONTAINERS
def test_damaged_file_loads_or_fails_cleanly(count, legacy, tmp_path):
    seeds = mutations.torch_files(legacy=legacy)
    fine = mutations.run(tmp_path / "a.pt", mutations.load_pickle, seeds, count, seed=count)
    assert 0 < fine < count


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("model.safetensors", mutations.load_tensors),
        ("config.json", mutations.load_config),
        ("tokenizer.json", mutations.load_tokenizer),
    ],
)
def test_damaged_model_folder_fails_cleanly(name, load, count, small_folder, tmp_path):
    seeds = [(small_folder / name).read_bytes()]
    mutations.run(tmp_path / name, load, seeds, count, seed=count)
