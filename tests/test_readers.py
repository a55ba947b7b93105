"""Every reader of files: damaged copies load or fail cleanly, run nothing and bound memory."""

import mutations
import pytest
import readers

from reclap.errors import ReclapError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return readers.write_all(tmp_path_factory.mktemp("readers"))


@pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", readers.KINDS)
def test_damaged_file_loads_or_fails_cleanly(made, kind, count):
    """As ``fuzz/mutate_files.py``, which tries more."""
    name, load = readers.KINDS[kind]
    path = made / name
    whole = path.read_bytes()
    try:
        fine = mutations.run(path, load, [whole], count, 3, allowed=(ReclapError, OSError))
    finally:
        path.write_bytes(whole)
    assert 0 <= fine <= count
