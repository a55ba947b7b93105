"""Stores of embeddings: against a list, whatever happens to the files."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reclap.errors import FormatError, ReclapError
from reclap.store import Header, Store, Writer, fill, is_store, writer
from reclap.store.layout import HEADER, INDEX, MARK, RECORD, ROWS, TEXT

pytestmark = pytest.mark.timeout(240)

DIM = 3
HEADER_32 = Header("d" * 64, DIM, "audio", "small")
TEXTS = st.text(max_size=6)
NOTES = st.one_of(st.none(), st.integers(), st.text(max_size=4), st.dictionaries(TEXTS, TEXTS))


def numbered(n, start=0, dim=DIM):
    return np.arange(start, start + n * dim, dtype=np.float32).reshape(n, dim)


def names(n, start=0):
    return [f"sound {i}.wav" for i in range(start, start + n)]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "a.store"
    with Writer(path, HEADER_32) as w:
        w.append(numbered(4), names(4), [None, {"seconds": 2.5}, "é", None])
    return path


# ---- What is written is read ---------------------------------------------------------------------


def test_what_was_appended_is_read(store):
    found = Store(store)
    assert found.header == HEADER_32
    assert len(found) == 4
    np.testing.assert_array_equal(found.rows, numbered(4))
    assert found.items == tuple(names(4))
    assert [found.metadata(i) for i in range(4)] == [None, {"seconds": 2.5}, "é", None]
    found.verify()
    with pytest.raises(IndexError):
        found.metadata(4)


def test_stores_of_different_headers_are_not_read_as_one(store, tmp_path):
    others = {"dim": DIM + 1, "digest": "e" * 64, "kind": "text", "preparation": "window_hop 0.5"}
    for i, (field, value) in enumerate(others.items()):
        header = dataclasses.replace(HEADER_32, **{field: value})
        with Writer(tmp_path / f"{i}.store", header) as w:
            w.append(numbered(1, dim=header.dim), names(1))
        with pytest.raises(FormatError, match=rf"{i}\.store: .*: these cannot be merged"):
            Store(store, tmp_path / f"{i}.store")
    assert len(Store(store, store)) == 8


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[1]
    text = (root / "docs" / "store.md").read_text("utf-8")
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        exec(compile(block, "docs/store.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.splitlines() == [
        "(4, 4) b.wav {'seconds': 5} 0000",
        "0 examples/sounds/rain.ogg (384,)",
        "1 none.wav none.wav: No such file or directory",
        "examples/sounds/rain.ogg rain",
    ]


def test_files_are_as_documented(store):
    header = json.loads((store / HEADER).read_text())
    assert header == {
        "format": "reclap-embeddings",
        "version": 1,
        "digest": "d" * 64,
        "dim": 3,
        "kind": "audio",
        "model": "small",
        "type": "float32",
    }
    rows = np.frombuffer((store / ROWS).read_bytes(), "<f4").reshape(-1, DIM)
    np.testing.assert_array_equal(rows, numbered(4))
    raw = (store / INDEX).read_bytes()
    assert len(raw) == 4 * 24
    ends = np.frombuffer(raw, "<u8").reshape(-1, 3)[:, :2]
    checks = np.frombuffer(raw, "<u4").reshape(-1, 6)[:, 5].tolist()
    assert checks == [zlib.crc32(raw[at : at + 20]) for at in range(0, 96, 24)]
    text = (store / TEXT).read_bytes()
    assert text[ends[0, 1] : ends[1, 0]].decode() == "sound 1.wav"
    assert json.loads(text[ends[1, 0] : ends[1, 1]]) == {"seconds": 2.5}
    assert json.loads((store / MARK).read_text()) == {"rows": 4}


def test_rows_of_half_precision_are_rounded_once(tmp_path, rng):
    rows = rng.standard_normal((5, DIM)).astype(np.float32)
    with Writer(tmp_path / "h", Header("d", DIM, "text", type="float16")) as w:
        w.append(rows, names(5))
    np.testing.assert_array_equal(Store(tmp_path / "h").rows, rows.astype(np.float16))


def test_names_that_are_not_utf8_come_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    with Writer(tmp_path / "s", HEADER_32) as w:
        w.append(numbered(1), [name])
        with pytest.raises(ValueError, match="cannot be written as UTF-8"):
            w.append(numbered(1), ["\ud800"])
    assert Store(tmp_path / "s").items == (name,)


def test_one_long_text_does_not_widen_the_others(tmp_path):
    with Writer(tmp_path / "s", HEADER_32) as w:
        w.append(numbered(101), ["x" * 5000, *"a" * 100])
    assert (tmp_path / "s" / TEXT).stat().st_size == 5100


def test_stores_are_merged(store, tmp_path):
    with Writer(tmp_path / "b.store", HEADER_32) as w:
        w.append(numbered(2, 50), names(2, 50), [None, 7])
    for merged in (Store(store, tmp_path / "b.store"), Store(tmp_path)):
        np.testing.assert_array_equal(merged.rows, np.vstack([numbered(4), numbered(2, 50)]))
        assert merged.items == (*names(4), *names(2, 50))
        assert (merged.metadata(1), merged.metadata(5)) == ({"seconds": 2.5}, 7)
        blocks = list(merged.blocks(3))
        assert [len(rows) for rows, _ in blocks] == [3, 1, 2]
        assert [item for _, items in blocks for item in items] == list(merged.items)
    assert is_store(tmp_path)
    with Writer(tmp_path / "c.store", Header("e" * 64, DIM, "audio")):
        pass
    with pytest.raises(FormatError, match=rf"c\.store.*{'e' * 64}.*a\.store.*{'d' * 64}"):
        Store(tmp_path)


# ---- What cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_rows_that_are_not_finite_are_refused_by_name(tmp_path, value):
    rows = numbered(3)
    rows[1, 2] = value
    with Writer(tmp_path / "s", Header("d", DIM, "text", type="float16")) as w:
        with pytest.raises(ValueError, match=r"sound 1\.wav: its embedding is not finite"):
            w.append(rows, names(3))
        assert len(w) == 0


@pytest.mark.parametrize(
    ("rows", "count", "notes"), [((2, 4), 2, None), ((2, 3), 3, None), ((2, 3), 2, [1])]
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, rows, count, notes):
    with Writer(tmp_path / "s", HEADER_32) as w, pytest.raises(ValueError, match=r"expected \("):
        w.append(np.zeros(rows), names(count), notes)


@pytest.mark.parametrize(
    "other",
    [{"digest": "e"}, {"dim": 4}, {"kind": "text"}, {"type": "float16"}, {"preparation": "a"}],
)
def test_rows_of_another_header_are_refused(store, other):
    header = Header(**{**vars(HEADER_32), **other})
    with pytest.raises(ReclapError, match="cannot append"):
        Writer(store, header)
    assert len(Store(store)) == 4
    with Writer(store, header, force=True) as w:
        assert len(w) == 0
    assert Store(store).header == header


def test_texts_of_an_earlier_version_are_said_to_lack_their_tokenizer(tmp_path):
    header = Header("d" * 64, DIM, "text", "small")
    with Writer(tmp_path / "s", header) as w:
        w.append(numbered(1), ["rain"])
    told = dataclasses.replace(header, preparation="tokenizer a")
    with pytest.raises(ReclapError, match=r"d, tokenizer not told; cannot .*d, tokenizer a$"):
        Writer(tmp_path / "s", told)
    assert HEADER_32.describe().endswith("ddd")  # sounds that have the model's hop


def test_writing_anew_leaves_readers_their_rows(store):
    found = Store(store)
    with Writer(store, HEADER_32, force=True) as w:
        w.append(numbered(1, 90), ["new"])
    np.testing.assert_array_equal(found.rows, numbered(4))
    assert Store(store).items == ("new",)


def test_a_second_writer_is_refused_and_readers_are_not(store):
    with Writer(store, HEADER_32) as w:
        with pytest.raises(ReclapError, match="another writer"):
            Writer(store, HEADER_32, force=True)
        w.append(numbered(1), ["e"])
        assert len(Store(store)) == 5
    with Writer(store, HEADER_32) as w:
        assert w.items == [*names(4), "e"]


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[1]",
        "no JSON",
        '{"format": "reclap-embeddings", "version": 2}',
        '{"format": "reclap-embeddings", "version": 1, "digest": "d", "dim": 0, "kind": "audio"}',
        '{"format": "reclap-embeddings", "version": 1, "digest": 1, "dim": 3, "kind": "audio"}',
        '{"format": "reclap-embeddings", "version": 1, "dim": 3, "kind": "audio"}',
        '{"format": "reclap-embeddings", "version": 1, "digest": "d", "dim": 3, "kind": "audio", '
        '"type": "int8"}',
        '{"format": "reclap-embeddings", "version": 1, "digest": "d", "dim": 3, "kind": "audio", '
        '"preparation": 1}',
    ],
)
def test_headers_of_something_else_are_refused_by_name(store, content):
    (store / HEADER).write_text(content)
    with pytest.raises(FormatError, match=r"header\.json"):
        Store(store)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"music")
    with pytest.raises(FormatError, match="no store"):
        Store(tmp_path)
    with pytest.raises(FileExistsError, match=r"song\.wav"):
        Writer(tmp_path, HEADER_32, force=True)
    with pytest.raises(FileNotFoundError):
        Store(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        Writer(tmp_path / "no" / "folder", HEADER_32)


# ---- Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "fits"), [(0, False), (1, True), (2**20, True), (2**20 + 1, False)]
)
def test_width_of_rows_has_two_ends(dim, fits):
    if fits:
        assert Header("d", dim, "audio").dim == dim
    else:
        with pytest.raises(ValueError, match=f"dim is {dim}, expected 1 to 1048576"):
            Header("d", dim, "audio")


def test_a_whole_store_is_opened_without_a_word(store, caplog):
    assert len(Store(store)) == 4
    assert caplog.text == ""


def test_without_a_checkpoint_the_first_row_is_looked_at_too(store):
    (store / MARK).unlink()
    with (store / ROWS).open("r+b") as f:
        f.write(b"\xff\xff")
    assert len(Store(store)) == 0


def test_a_damaged_row_is_found(store):
    with (store / ROWS).open("r+b") as f:
        f.seek(2 * DIM * 4)
        f.write(b"\xff")
    with pytest.raises(FormatError, match="row 2 is damaged"):
        Store(store).verify()


def test_rows_after_the_checkpoint_count_only_with_their_checksums(store):
    """As after a crash of the machine: names and lengths were on disk, contents were not."""
    (store / MARK).write_text('{"rows": 1}')
    with (store / ROWS).open("r+b") as f:
        f.seek(2 * DIM * 4)
        f.write(bytes(4 * DIM))
    assert len(Store(store)) == 2
    with Writer(store, HEADER_32) as w:
        w.append(numbered(1, 70), ["after"])
    assert Store(store).items == (*names(2), "after")
    Store(store).verify()


def test_records_of_zeros_are_no_rows(store):
    for name, size in ((INDEX, RECORD.itemsize), (ROWS, 4 * DIM)):
        with (store / name).open("ab") as f:
            f.write(bytes(5 * size))
    assert len(Store(store)) == 4


def test_missing_rows_are_told(store, caplog):
    os.truncate(store / ROWS, 4 * DIM * 2 + 1)
    assert len(Store(store)) == 2
    assert "2 rows are missing" in caplog.text


def test_a_full_disk_costs_only_what_did_not_fit(store, monkeypatch):
    class Full:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = data[: self.room]
            self.room -= len(part)
            return self.file.write(part)

        def __getattr__(self, name):
            return getattr(self.file, name)

    for name, kept in (("_rows", 0), ("_text", 0), ("_index", 1)):
        with Writer(store, HEADER_32) as w:
            before = len(w)
            whole = getattr(w, name)
            monkeypatch.setattr(w, name, Full(whole, 30))
            file = {"_rows": ROWS, "_text": TEXT, "_index": INDEX}[name]
            with pytest.raises(OSError, match=f"No space.*{file}"):
                w.append(numbered(3, before), names(3, before))
            monkeypatch.setattr(w, name, whole)
            assert len(w) == before + kept
            w.append(numbered(1, 500), ["next"])
        found = Store(store)
        found.verify()
        assert found.items[before:] == (*names(kept, before), "next")
        assert os.path.getsize(store / ROWS) == len(found) * 4 * DIM  # noqa: PTH202


KILLED = """
import os, signal, sys
import numpy as np
from reclap.store import Header, Writer, writer

left = int(sys.argv[2])
plain = os.write, writer._write_all, os.fsync

def killing(call):
    def wrapped(*args):
        global left
        left -= 1
        if left == 0:
            if call is plain[1]:
                args[0].write(args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args)
        return result
    return wrapped

writer._write_all, os.fsync = killing(plain[1]), killing(plain[2])
writer.write_text = killing(writer.write_text)
with Writer(sys.argv[1], Header("d", 3, "audio")) as w:
    start = len(w)
    for i in range(start, 6, 2):
        w.append(np.full((2, 3), i), [f"{i}", f"{i + 1}"])
        print(i + 2, flush=True)
"""


def test_a_kill_at_any_call_loses_no_row_that_was_appended(tmp_path):
    for call in range(1, 40):
        path = tmp_path / f"{call}.store"
        command = [sys.executable, "-c", KILLED, str(path)]
        run = subprocess.run([*command, str(call)], capture_output=True, text=True)  # noqa: S603
        said = [int(line) for line in run.stdout.split()]
        if (path / HEADER).exists():
            assert len(Store(path)) >= max(said, default=0)
        with Writer(path, Header("d", 3, "audio")) as w:
            assert w.items[: max(said, default=0)] == [f"{i}" for i in range(max(said, default=0))]
            w.append(np.ones((1, 3)), ["end"])
        assert Store(path).items[-1] == "end"
        Store(path).verify()
        if run.returncode == 0:
            break
    assert run.returncode == 0, run.stderr
    assert call > 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "whole.store"
    with Writer(path, HEADER_32) as w:
        w.append(numbered(6), names(6), [None, {"a": [1, 2]}, "é", None, 3, None])
    return path


@given(
    name=st.sampled_from([HEADER, MARK, ROWS, TEXT, INDEX]),
    place=st.floats(0, 1, exclude_max=True),
    change=st.binary(min_size=1, max_size=9),
    mark=st.sampled_from([None, 0, 3, 10**30]),
)
@settings(max_examples=300, deadline=None)
def test_changed_bytes_are_read_or_refused(whole, name, place, change, mark):
    """Whatever one file holds: a store of some of the rows, or an error that names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(whole, Path(folder) / "s"))
        if mark is not None:
            (path / MARK).write_text(f'{{"rows": {mark}}}')
        data = bytearray((path / name).read_bytes())
        begin = int(place * len(data))
        data[begin : begin + len(change)] = change
        (path / name).write_bytes(data)
        found = refused(Store, path, says=str(path))
        if found is None:
            return
        assert found.rows.shape == (len(found), found.header.dim)
        assert len(found.items) == len(found) == sum(len(rows) for rows, _ in found.blocks(2))
        for i in range(len(found)):
            refused(lambda i=i: [found.metadata(i)], says=f"metadata of row {i}")
        if refused(lambda: [found.verify()], says="is damaged") and name != HEADER:
            n = len(found)
            assert found.rows.tolist() == numbered(6)[:n].tolist()
            assert found.items == tuple(names(6)[:n])


def refused(call, *args, says):
    """Return what a call gives, or None if it was refused in these words."""
    try:
        return call(*args)
    except FormatError as error:
        said = str(error)
    assert says in said
    return None


# ---- Filling -------------------------------------------------------------------------------------


def test_filling_continues_where_it_was_stopped(tmp_path):
    asked, told = [], []

    def embed(texts):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.extend(texts)
        return [[len(text)] * DIM for text in texts]

    texts = [f"{'x' * i}" for i in range(1, 10)] + ["x"]
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "s", HEADER_32) as w:
        fill(w, texts, embed, block=5)
    assert len(Store(tmp_path / "s")) == 5
    asked.clear()
    with Writer(tmp_path / "s", HEADER_32) as w:
        fill(w, texts, embed, block=5, done=told.append)
    assert asked == texts[5:9]
    assert told == [4]
    found = Store(tmp_path / "s")
    assert found.items == tuple(texts[:9])
    np.testing.assert_array_equal(found.rows[:, 0], range(1, 10))


def test_new_store_and_all_of_its_files_are_put_on_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)  # noqa: PTH115
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with Writer(tmp_path / "s", HEADER_32) as w:
        assert tmp_path.name in synced  # which lists the new folder
        w.append(numbered(1), names(1))
        synced.clear()
        w.checkpoint()
        assert {ROWS, TEXT, INDEX} <= set(synced)
        assert max(map(synced.index, (ROWS, TEXT, INDEX))) < len(synced) - 1  # the mark comes last


def test_rows_are_put_on_disk_as_they_grow(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writer.os, "fsync", lambda handle: synced.append(handle))
    with Writer(tmp_path / "s", HEADER_32) as w:
        synced.clear()
        w.append(numbered(1023), names(1023))
        assert not synced
        w.append(numbered(1), names(1))
        assert len(synced) >= 3
        assert json.loads((tmp_path / "s" / MARK).read_text()) == {"rows": 1024}


# ---- Whatever happens ----------------------------------------------------------------------------


class Stores(RuleBasedStateMachine):
    """A store beside a list of (row, item, metadata)."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path, self.model, self.writer, self.count = self.folder / "s", [], None, 0
        self.is_short = False  # some file is, so that bytes behind it would look like its rows

    def teardown(self):
        if self.writer is not None:
            self.writer.close()
        shutil.rmtree(self.folder)

    @initialize()
    def make(self):
        Writer(self.path, HEADER_32).close()

    @rule()
    @precondition(lambda self: self.writer is None)
    def open(self):
        self.writer, self.is_short = Writer(self.path, HEADER_32), False
        assert self.writer.items == [item for _, item, _ in self.model]

    @rule(given=st.lists(st.tuples(TEXTS, NOTES), max_size=4))
    @precondition(lambda self: self.writer is not None)
    def append(self, given):
        rows = numbered(len(given), self.count)
        self.count += len(given)
        items, notes = [item for item, _ in given], [note for _, note in given]
        self.writer.append(rows, items, notes)
        self.model += list(zip(rows.tolist(), items, notes, strict=True))

    @rule()
    @precondition(lambda self: self.writer is not None)
    def checkpoint(self):
        self.writer.checkpoint()

    @rule()
    @precondition(lambda self: self.writer is not None)
    def close(self):
        self.writer.close()
        self.writer = None

    @rule()
    @precondition(lambda self: self.writer is not None)
    def kill(self):
        self.writer._files.close()  # nothing is put on disk, and the lock is gone
        self.writer = None

    @rule()
    @precondition(lambda self: self.writer is not None)
    def second_writer(self):
        with pytest.raises(ReclapError, match="another writer"):
            Writer(self.path, HEADER_32)

    @rule(name=st.sampled_from([ROWS, TEXT, INDEX]), share=st.floats(0, 1))
    @precondition(lambda self: self.writer is None)
    def truncate(self, name, share):
        size = round((self.path / name).stat().st_size * share)
        ends = np.fromfile(self.path / INDEX, RECORD)["end"][: len(self.model)]
        os.truncate(self.path / name, size)
        self.is_short = True
        kept = {
            ROWS: size // (4 * DIM),
            TEXT: int((ends <= size).argmin()) if (ends > size).any() else len(ends),
            INDEX: size // RECORD.itemsize,
        }[name]
        self.model = self.model[:kept]

    @rule(name=st.sampled_from([ROWS, TEXT, INDEX]), junk=st.binary(max_size=60))
    @precondition(lambda self: self.writer is None and not self.is_short)
    def tear(self, name, junk):
        """As a write that was killed leaves it: bytes behind the last row."""
        with (self.path / name).open("ab") as f:
            f.write(junk)

    @invariant()
    def reads(self):
        if not self.path.exists():
            return
        found = Store(self.path)
        assert found.items == tuple(item for _, item, _ in self.model)
        assert found.rows.tolist() == [row for row, _, _ in self.model]
        assert [found.metadata(i) for i in range(len(found))] == [note for *_, note in self.model]
        found.verify()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
