"""Tokenizers and texts that would take memory or time without end are refused by name."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from reclap import text
from reclap.config import TextConfig
from reclap.errors import FormatError
from reclap.text import tokenizer_limits, vocabulary

CONFIG = TextConfig(max_tokens=32)


def write(folder, change=None, **parts):
    """Write a tokenizer of letters whose parts are as given; `change` sees its JSON."""
    model = models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]")  # noqa: S106
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    data = json.loads(tokenizer.to_str())
    if change:
        change(data)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data))
    return path


def test_nested_replacements_do_not_take_the_memory(tmp_path):
    """In a process of its own, which may have 2 GB, since the library aborts at the end of it."""
    nested = normalizers.Sequence([normalizers.Replace("a", "a" * 10)] * 20)
    path = write(tmp_path, normalizer=nested)
    code = (
        "import sys, pathlib; from reclap import text; from reclap.config import TextConfig\n"
        "from reclap.errors import FormatError\n"
        "try:\n"
        "    text.Tokenizer(pathlib.Path(sys.argv[1]), TextConfig()).encode(['a'])\n"
        "except FormatError as error:\n"
        "    print(error)\n"
    )
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-300:]
    assert ran.stdout.startswith(f"{path}: not a tokenizer: its steps can make texts 1e+20 times")


def untyped(data):
    del data["normalizer"]["type"]
    for step in data["normalizer"]["normalizers"]:
        del step["type"]


def hidden(data):
    """Hide steps inside sequences inside sequences, beside lists that look like them."""
    data["normalizer"] = {"type": "Sequence", "normalizers": [data["normalizer"]]}
    data["normalizer"]["pretokenizers"] = []


def added(data):
    token = {"id": 9, "content": "a" * 30_000, "single_word": False, "lstrip": False}
    data["added_tokens"] = [token | {"rstrip": False, "normalized": True, "special": False}]


def many_ids(data):
    ids = {"id": "x", "ids": [1] * 10_000, "tokens": ["a"] * 10_000}
    data["post_processor"]["special_tokens"]["x"] = ids


TEN = [normalizers.Replace("a", "a" * 10)]
EMPTY = [normalizers.Replace(Regex(""), "a" * 99)]
FEW = processors.TemplateProcessing(single="x $A", special_tokens=[("x", 1)])
MANY = processors.TemplateProcessing(single="x " * 32 + "$A", special_tokens=[("x", 1)])
HOSTILE = {
    "replacements": (None, {"normalizer": normalizers.Sequence(TEN * 5)}, "1e.05 times"),
    "without types": (untyped, {"normalizer": normalizers.Sequence(TEN * 5)}, "1e.05|not a tok"),
    "in sequences": (hidden, {"normalizer": normalizers.Sequence(TEN * 5)}, "1e.05 times"),
    "of nothing": (None, {"normalizer": normalizers.Sequence(EMPTY * 3)}, "1e.06 times"),
    "bytes": (None, {"normalizer": normalizers.Sequence([normalizers.ByteLevel()] * 9)}, "times"),
    "marks": (
        None,
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Metaspace()] * 9)},
        "2.62e.05 times",
    ),
    "prefix": (None, {"normalizer": normalizers.Prepend("a" * 10_001)}, "times"),
    "steps": (None, {"normalizer": normalizers.Sequence([normalizers.NFC()] * 65)}, "64 steps"),
    "added tokens": (added, {"normalizer": normalizers.Sequence(TEN * 3)}, "30000 characters"),
    "template": (many_ids, {"post_processor": FEW}, "post_processor has"),
    "special tokens": (None, {"post_processor": MANY}, "adds 32 tokens to every text"),
    "words": (
        lambda data: data["model"].update(max_input_chars_per_word=10**9),
        {},
        "max_input_chars_per_word is 1000000000",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_file_that_multiplies_texts_is_refused(tmp_path, name):
    change, parts, message = HOSTILE[name]
    path = write(tmp_path, change, **parts)
    with pytest.raises(FormatError, match=message) as caught:
        text.Tokenizer(path, CONFIG)
    assert str(caught.value).startswith(str(path))


def test_large_file_is_not_read(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    for name in ("merges.txt", *text.TOKENIZERS):  # the former beside a small vocab.json
        with (tmp_path / name).open("wb") as f:
            f.truncate(tokenizer_limits.LARGEST_FILE + 1)
        with pytest.raises(FormatError, match="expected at most 67108864 bytes"):
            vocabulary.load(tmp_path / name.replace("merges.txt", "vocab.json"))


def test_length_of_a_text_is_bounded_by_what_it_can_become(tmp_path):
    path = write(tmp_path, pre_tokenizer=pre_tokenizers.Whitespace())
    assert len(text.Tokenizer(path, CONFIG).encode(["a " * 1000])[0]) == 32
    with pytest.raises(ValueError, match=r"texts\[1\] has 1000001 characters, expected at most"):
        text.Tokenizer(path, CONFIG).encode(["a", "a" * 1_000_001])
    path = write(tmp_path, normalizer=normalizers.Sequence(TEN * 3))
    with pytest.raises(ValueError, match=r"texts\[0\] has 20001 characters, .* 20000"):
        text.Tokenizer(path, CONFIG).encode(["a" * 20_001])


def test_many_texts_are_tokenised_as_one_by_one(tmp_path, caplog):
    tokenizer = text.Tokenizer(write(tmp_path, pre_tokenizer=pre_tokenizers.Whitespace()), CONFIG)
    texts = [" ".join("a" * (1 + i % 40)) for i in range(2500)]
    ids, first = tokenizer.encode(texts)
    assert np.diff(first).tolist() == [min(32, 1 + i % 40) for i in range(2500)]
    assert (ids == 1).all()
    assert "texts were cut at 32 tokens" in caplog.text
    assert len(caplog.records) == 1
    assert tokenizer.encode([])[1].tolist() == [0]
