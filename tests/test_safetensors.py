"""safetensors files: what the library takes and refuses; bfloat16 widened when asked for."""

import json
import random
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors

from reclap.checkpoints import model_folder
from reclap.checkpoints.lazy import Lazy
from reclap.errors import FormatError

KNOWN = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}  # fmt: skip


def write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, dtype="F32", shape=None):
    shape = [(end - begin) // KNOWN[dtype]] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def theirs(content):
    """Return names, shapes and bytes as the library reads them, or None where it refuses."""
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (x["dtype"], x["shape"], bytes(x["data"])) for name, x in found}


def ours(path):
    try:
        found = model_folder.read_tensors(path)
    except FormatError:
        return None
    return {name: (list(x.shape), np.asarray(x)) for name, x in found.items()}


def drawn(draw):
    """Return header and data of a file that is most often right."""
    header, at = {}, 0
    for i in range(draw.randrange(6)):
        dtype = draw.choice([*KNOWN])
        shape = [draw.randrange(4) for _ in range(draw.randrange(4))]
        size = int(np.prod(shape, dtype=int)) * KNOWN[dtype]
        header[f"t{i}"] = entry(at, at + size, dtype, shape)
        at += size
    fault = draw.randrange(8)
    if header and fault < 5:
        one = header[draw.choice([*header])]
        change = draw.choice((-8, -1, 1, 4, 8))
        if fault == 0:
            one["data_offsets"][draw.randrange(2)] += change
        elif fault == 1:  # the whole range elsewhere
            one["data_offsets"] = [x + change for x in one["data_offsets"]]
        elif fault == 2:
            one["shape"] = [*one["shape"], draw.choice((0, 1, 2, -1, 1.0, 5))]
        elif fault == 3:
            one["dtype"] = draw.choice([*KNOWN, "F8", "", 3])
        else:
            at += draw.choice((-1, 1, 8))
    items = list(header.items())
    draw.shuffle(items)
    return dict(items), bytes(i % 251 for i in range(max(0, at)))


def test_library_and_we_take_the_same_files(tmp_path):
    draw, taken = random.Random(5), 0  # noqa: S311
    for _ in range(1500):
        header, data = drawn(draw)
        path = write(tmp_path / "x", header, data)
        want, got = theirs(path.read_bytes()), ours(path)
        assert (want is None) == (got is None), header
        if want is None:
            continue
        taken += 1
        assert set(want) == set(got)
        for name, (dtype, shape, content) in want.items():
            assert shape == got[name][0]
            mine = got[name][1]
            if dtype == "BF16":
                mine = (mine.view(np.uint32) >> 16).astype(np.uint16)
            assert mine.tobytes() == content
    assert 500 < taken < 1400


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8), "b": entry(0, 8)}, "b begins at byte 0, expected 8"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "b begins at byte 4, expected 8"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, "b begins at byte 12, expected 8"),
        ({"a": entry(0, 8)}, "tensors end at byte 8 of the data, expected 16"),
        ({}, "tensors end at byte 0 of the data, expected 16"),
    ],
)
def test_ranges_that_overlap_or_leave_bytes_out_are_named(tmp_path, header, message):
    with pytest.raises(FormatError, match=message):
        model_folder.read_tensors(write(tmp_path / "x", header, bytes(16)))


def test_name_that_occurs_twice_is_refused(tmp_path):
    one = json.dumps(entry(0, 8))
    text = f'{{"a": {one}, "a": {one}}}'.encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(FormatError, match="'a' more than once"):
        model_folder.read_tensors(tmp_path / "x")


def test_bfloat16_is_widened_when_asked_for_and_not_kept(tmp_path):
    values = np.linspace(-3, 3, 1 << 20, dtype=np.float32)
    raw = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"a": entry(0, 2 * values.size, "BF16")}
    path = write(tmp_path / "x", header, raw.tobytes())
    tracemalloc.start()
    found = model_folder.read_tensors(path)["a"]
    assert tracemalloc.get_traced_memory()[0] < 1 << 20
    assert isinstance(found, Lazy)
    assert (found.dtype, found.shape) == (np.float32, values.shape)
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32) >> 16, raw)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1 << 20


def test_long_and_odd_names_make_short_plain_messages(tmp_path):
    name = "a\x1b]0;title\x07" + "b" * 1_000_000
    path = write(tmp_path / "x", {name: entry(0, 8) | {"shape": [3]}}, bytes(8))
    with pytest.raises(FormatError) as caught:
        model_folder.read_tensors(path)
    assert len(str(caught.value)) < 1000
    assert r"a\x1b]0;title\x07bb" in str(caught.value)
    many = {f"layer.{i}\x9b": np.zeros(1, np.float32) for i in range(10_000)}
    with pytest.raises(FormatError) as caught:
        model_folder.match(many, [("wanted", (1,))], "here")
    assert "layer.49" in str(caught.value)
    assert "and 9950 more" in str(caught.value)
    assert len(str(caught.value)) < 2000
    huge = {"x": {"dtype": "F" * 5_000_000, "shape": [2], "data_offsets": [0, 8]}}
    with pytest.raises(FormatError) as caught:
        model_folder.read_tensors(write(tmp_path / "x", huge, bytes(8)))
    assert len(str(caught.value)) < 21_000
