"""Features of captions: kept on disk block by block, the same wherever a process was killed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import training

from reclap.checkpoints import model_folder
from reclap.store import Store
from reclap.training import captions
from reclap.training.captions import Captions
from reclap.training.text_encoder import TextEncoder

TEXTS = [f"a{chr(97 + i % 26)} {chr(97 + i // 26)} sound" for i in range(300)]  # in three blocks


class Counting:
    """A text tower that counts, and is killed in a block."""

    def __init__(self, encoder, dies_at=None, digest=None):
        self.name, self.width = encoder.name, encoder.width
        self._encoder, self._dies_at = encoder, dies_at
        self.asked, self.digest = [], digest or encoder.digest

    def features(self, texts):
        if len(self.asked) == self._dies_at:
            raise KeyboardInterrupt
        self.asked.append(len(texts))
        return self._encoder.features(texts)


@pytest.fixture(scope="module")
def encoder(small_folder):
    return TextEncoder(small_folder, 1)


def made(encoder, path, texts=TEXTS):
    return Captions(encoder, texts, path, progress=False)


def test_features_are_those_of_the_tower(encoder, tmp_path):
    known = made(encoder, tmp_path / "c.store")
    rows = known([TEXTS[7], "another one", TEXTS[299], TEXTS[7]])
    expected = encoder.features([TEXTS[7], "another one", TEXTS[299], TEXTS[7]])
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert np.array_equal(rows[0], rows[3])


def test_progress_counts_texts_that_are_there_too(encoder, tmp_path, monkeypatch):
    bars = training.watch_bars(monkeypatch, captions)
    for _ in range(2):
        made(encoder, tmp_path / "c.store")
    assert [(bar.told, bar.n) for bar in bars] == [((300, "text", False), 300)] * 2


def test_killed_embedding_goes_on_at_its_block(encoder, tmp_path):
    first = Counting(encoder, dies_at=2)
    with pytest.raises(KeyboardInterrupt):
        made(first, tmp_path / "c.store")
    assert len(Store(tmp_path / "c.store")) == 256
    second = Counting(encoder)
    rows = made(second, tmp_path / "c.store")(TEXTS)
    assert second.asked == [44]
    assert np.array_equal(rows, made(encoder, tmp_path / "whole.store")(TEXTS))


def test_block_that_is_partly_kept_is_embedded_as_a_whole(encoder, tmp_path):
    """With other texts beside them, features may differ in the last bit."""
    made(encoder, tmp_path / "c.store")
    index = tmp_path / "c.store" / "index.bin"
    index.write_bytes(index.read_bytes()[: 24 * 200])
    second = Counting(encoder)
    rows = made(second, tmp_path / "c.store")(TEXTS)
    assert second.asked == [128, 44]
    assert np.array_equal(rows, made(encoder, tmp_path / "whole.store")(TEXTS))


def test_features_of_another_tower_are_made_anew(encoder, tmp_path):
    made(encoder, tmp_path / "c.store")
    second = Counting(encoder, digest="1" * 64)
    made(second, tmp_path / "c.store")
    assert second.asked == [128, 128, 44]
    (tmp_path / "c.store" / "header.json").write_text("{")
    made(second, tmp_path / "c.store")
    assert len(second.asked) == 6


@pytest.mark.parametrize("part", ["weights", "tokenizer", "settings"])
def test_digest_of_a_tower_tells_what_its_features_depend_on(encoder, small_folder, tmp_path, part):
    folder = Path(shutil.copytree(small_folder, tmp_path / "other"))
    if part == "weights":
        tensors = model_folder.read_tensors(folder / model_folder.TEXT)
        tensors = {name: np.array(x) for name, x in tensors.items()}
        next(x for x in tensors.values() if x.dtype == np.float32)[...] += 1
        model_folder.write_tensors(folder / model_folder.TEXT, tensors)
    elif part == "tokenizer":
        path = folder / model_folder.TOKENIZER
        path.write_text(path.read_text().replace("[MASK]", "[MUSK]"))
    else:
        data = json.loads((folder / model_folder.CONFIG).read_text())
        data["text"]["eps"] = 1e-3
        (folder / model_folder.CONFIG).write_text(json.dumps(data))
    assert TextEncoder(folder).digest != encoder.digest
    config = json.loads((small_folder / model_folder.CONFIG).read_text()) | {"name": "another"}
    again = Path(shutil.copytree(small_folder, tmp_path / "again"))
    (again / model_folder.CONFIG).write_text(json.dumps(config))
    assert TextEncoder(again).digest == encoder.digest  # a name changes nothing


def test_full_disk_keeps_the_blocks_before(encoder, tmp_path, monkeypatch):
    from reclap.store import writer

    original, left = writer._write_all, 4  # rows, text, index of the first block, one more

    def full(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_all", full)
        with pytest.raises(OSError, match="No space left"):
            made(encoder, tmp_path / "c.store")
    second = Counting(encoder)
    made(second, tmp_path / "c.store")
    assert second.asked == [128, 44]
