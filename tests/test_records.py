"""Files of records: whole or not there, told apart, shared or refused."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from reclap.errors import FormatError, ReclapError
from reclap.io.records import Kind, Records
from reclap.llm.cache import Cache
from reclap.llm.request import Reply

TABLE = "CREATE TABLE numbers (n INTEGER PRIMARY KEY)"
SHARED = Kind("list of numbers", 0x1234, 1, (TABLE,))
DURABLE = Kind("list of numbers", 0x1234, 1, (TABLE,), durable=True, alone=True)
BOTH = pytest.mark.parametrize("kind", [SHARED, DURABLE], ids=["shared", "durable"])


def numbers(records):
    with records.reading() as connection:
        return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


def add(records, n):
    with records.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (?)", (n,))


@BOTH
def test_what_was_written_is_there_the_next_time(tmp_path, kind):
    for n in range(3):
        records = Records(tmp_path / "deep" / "r", kind)
        assert numbers(records) == list(range(n))
        add(records, n)
        records.close()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r"]


@BOTH
def test_a_block_that_fails_leaves_nothing(tmp_path, kind):
    records = Records(tmp_path / "r", kind)
    with pytest.raises(KeyboardInterrupt), records.writing() as connection:  # noqa: PT012
        connection.execute("INSERT INTO numbers VALUES (1)")
        raise KeyboardInterrupt
    add(records, 2)
    assert numbers(records) == [2]
    records.close()


@BOTH
def test_a_kill_inside_and_after_a_block(tmp_path, kind):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from reclap.io.records import Kind, Records\n"
        "records = Records(Path(sys.argv[1]), Kind('list of numbers', 0x1234, 1, (sys.argv[2],),\n"
        "                                          sys.argv[3] == 'True', sys.argv[3] == 'True'))\n"
        "for n in range(2):\n"
        "    with records.writing() as c:\n"
        "        c.execute('INSERT INTO numbers VALUES (?)', (n,))\n"
        "        if n == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [str(tmp_path / "r"), TABLE, str(kind.durable)]
    run = subprocess.run([sys.executable, "-c", code, *arguments], check=False)  # noqa: S603
    assert run.returncode == -signal.SIGKILL
    records = Records(tmp_path / "r", kind)
    assert numbers(records) == [0]
    records.close()


def test_shared_files_are_shared_and_others_not(tmp_path):
    one, two = Records(tmp_path / "s", SHARED), Records(tmp_path / "s", SHARED)
    add(one, 1)
    add(two, 2)
    assert numbers(one) == [1, 2]
    one.close()
    two.close()
    one = Records(tmp_path / "d", DURABLE)
    for _ in range(2):
        with pytest.raises(ReclapError, match="d: another process has it open"):
            Records(tmp_path / "d", DURABLE)
    add(one, 1)
    one.close()
    Records(tmp_path / "d", DURABLE).close()


@BOTH
def test_a_closed_file_says_so(tmp_path, kind):
    records = Records(tmp_path / "r", kind)
    records.close()
    with pytest.raises(ReclapError, match="r: Cannot operate on a closed database") as caught:
        add(records, 1)
    assert not isinstance(caught.value, FormatError)  # the file is right


def test_other_files_are_refused_and_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    (tmp_path / "text").write_text("no database at all " * 300)
    for name in ("other", "text"):
        before = (tmp_path / name).read_bytes()
        for kind in (SHARED, DURABLE):
            with pytest.raises(FormatError, match=f"{name}: no list of numbers"):
                Records(tmp_path / name, kind)
        assert (tmp_path / name).read_bytes() == before


def test_an_empty_file_that_must_exist_stays_empty(tmp_path):
    (tmp_path / "r").touch()
    with pytest.raises(FormatError, match="it is empty"):
        Records(tmp_path / "r", SHARED, must_exist=True)
    assert (tmp_path / "r").stat().st_size == 0
    assert os.listdir(tmp_path) == ["r"]  # noqa: PTH208
    with pytest.raises(FileNotFoundError, match="none: no list of numbers"):
        Records(tmp_path / "none" / "none", SHARED, must_exist=True)
    assert not (tmp_path / "none").exists()


@BOTH
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(tmp_path, kind):
    records = Records(tmp_path / "r", kind)
    with records.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    said = f"No space left on device: '{tmp_path}/r'"
    with pytest.raises(OSError, match=said), records.writing() as connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(9999)])
    assert numbers(records) == []
    add(records, 1)
    assert numbers(records) == [1]
    records.close()


def test_caches_of_earlier_versions_are_read(tmp_path):
    """As the first release made them."""
    with contextlib.closing(sqlite3.connect(tmp_path / "c", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA application_id = 1919118448")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (digest BLOB PRIMARY KEY, text TEXT NOT NULL,"
            " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,"
            " complete INTEGER NOT NULL, date TEXT NOT NULL) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO replies VALUES (?, 'x', 1, 2, 1, 'd')", (b"\xab" * 32,))
    cache = Cache(str(tmp_path / "c"))
    assert cache.get("ab" * 32) == Reply("x", 1, 2, True, "d")
    cache.close()
