"""Tokenizers built from vocabularies give the ids of transformers' and SentencePiece's."""

import contextlib
import csv
import dataclasses
import json
import random

import pytest
from needs import needs
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from reclap import text
from reclap.checkpoints.families.microsoft import GPT2
from reclap.config import TextConfig
from reclap.errors import FormatError
from reclap.text import vocabulary

transformers = needs("transformers", "oracle")
pytestmark = pytest.mark.oracle

ODD = [
    "a dog barks",
    "  two leading spaces, and  two inside ",
    "It's raining; they'll say \"don't\" (twice)!!",
    "line\nbreak\tand tab\r\nand a carriage return",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m e\u0301 \ufb01ne \u2460 \uff21\uff22",
    "\U0001f415 barks \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u96e8\u304c\u964d\u308b \u05d2\u05e9\u05dd",
    "UPPER lower MiXeD 1234567890 3.14",
    "<s> </s> <mask> <pad> [CLS] [MASK] <|endoftext|> <extra_id_5> end",
    "\u00a0no-break\u2009thin\u3000wide\u200bzero",
    "\u201cquoted\u201d \u2018single\u2019 \u2014 dash\u2026",
    "thunderstormsoverthehillsandawhistlingkettle" * 9,
]


def captions(shared):
    with (shared / "captions" / "audiocaps_test.csv").open(newline="") as f:
        return [row["caption"] for row in csv.DictReader(f)]


def train_pairs(special, suffix=""):
    """Train a small byte-level BPE on the texts above."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(ODD * 3, trainer)
    return tokenizer


def write_pairs(folder, special, suffix=""):
    """Write vocab.json and merges.txt, and nothing else."""
    data = json.loads(train_pairs(special, suffix).to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(data["vocab"]))
    merges = [" ".join(pair) for pair in data["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return data["vocab"], [tuple(pair) for pair in data["merges"]]


def roberta(folder):
    parts = write_pairs(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return transformers.RobertaTokenizerFast(*parts)


def gpt2(folder):
    return transformers.GPT2TokenizerFast(*write_pairs(folder, ["<|endoftext|>"]))


def clip(folder):
    vocab, merges = write_pairs(folder, ["<|startoftext|>", "<|endoftext|>"], "</w>")
    return transformers.CLIPTokenizerFast(vocab, merges)


def bert(folder, **settings):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.get("do_lower_case", True))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, continuing_subword_prefix="##"
    )
    tokenizer.train_from_iterator(ODD[:-1], trainer)
    vocab = tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", "utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.BertTokenizerFast(vocab, **settings)


def cased(folder):
    return bert(folder, do_lower_case=False, strip_accents=True)


def t5(folder):
    """Train a SentencePiece model with T5's special pieces."""
    sentencepiece = needs("sentencepiece", "oracle")
    with (folder / "spiece.model").open("wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for t in ODD * 3 for line in t.splitlines()]),
            model_writer=f,
            vocab_size=150,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=5,
        )
    loaded = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    sentinels = {f"<extra_id_{i}>": len(loaded) + 99 - i for i in range(100)}

    def encode(text):
        if any(mark in text for mark in ("<pad>", "</s>", "<unk>", *sentinels)):
            return None  # SentencePiece alone does not know that they are whole
        return [*loaded.encode(text), 1]

    return encode


KINDS = {"roberta": roberta, "gpt2": gpt2, "clip": clip, "bert": bert, "cased": cased, "t5": t5}


def differing(ours, theirs, texts):
    """Return texts whose ids differ."""
    wrong = []
    for one in texts:
        want = theirs(one)
        want = want["input_ids"] if hasattr(theirs, "vocab") else want
        if want is not None and ours.encode(one).ids != want:
            wrong.append((one, ours.encode(one).ids, want))
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_odd_texts_equal_upstreams(tmp_path, kind):
    theirs = KINDS[kind](tmp_path)
    path = text.find_tokenizer(tmp_path)
    assert differing(vocabulary.load(path), theirs, ODD) == []


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_captions_equal_upstreams(tmp_path, shared, kind):
    theirs = KINDS[kind](tmp_path)
    ours = vocabulary.load(text.find_tokenizer(tmp_path))
    assert differing(ours, theirs, captions(shared)[::20][:200]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_written_as_json_it_stays_the_same(tmp_path, kind):
    KINDS[kind](tmp_path)
    path = text.find_tokenizer(tmp_path)
    again = tmp_path / "tokenizer.json"
    again.write_bytes(vocabulary.to_json(path))
    assert text.find_tokenizer(tmp_path) == again
    a, b = vocabulary.load(path), vocabulary.load(again)
    assert [a.encode(t).ids for t in ODD] == [b.encode(t).ids for t in ODD]


def test_sentinels_and_end_of_t5(tmp_path):
    t5(tmp_path)
    tokenizer = vocabulary.load(tmp_path / "spiece.model")
    size = tokenizer.get_vocab_size()
    assert tokenizer.token_to_id("<extra_id_0>") == size - 1
    assert tokenizer.encode("<extra_id_99>").ids == [size - 100, 1]
    assert tokenizer.encode("</s>").ids == [1, 1]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("lstrip", [True, False, None])
def test_mask_takes_spaces_before_it_where_the_folder_says_so(tmp_path, file, lstrip):
    roberta(tmp_path)
    said = "<mask>" if lstrip is None else {"content": "<mask>", "lstrip": lstrip}
    (tmp_path / file).write_text(json.dumps({"mask_token": said}))
    tokenizer = vocabulary.load(tmp_path / "vocab.json")
    spaced, close = (tokenizer.encode(f"a{x}<mask> b").ids for x in (" ", ""))
    assert (spaced == close) == bool(lstrip)


BAD = [
    ("vocab.json", b"[]", "expected an object"),
    ("vocab.json", b'{"<s>": 0, "</s>": -1}', "expected an object"),
    ("vocab.json", b'{"<s>": 0, "</s>": 1}', "merges.txt"),
    ("vocab.json", b'{"a": 0}', "pairs of special tokens"),
    ("vocab.txt", b"[CLS]\n[SEP]\n", r"\[UNK\] missing"),
    ("vocab.txt", b"\xff\xfe", "utf-8"),
    ("spiece.model", b"\xff\xff\xff", "not a SentencePiece model"),
    ("spiece.model", b"", "type 1, expected 1|unigrams"),
    ("spiece.model", b"\x0a\x03\x0a\x01a\x12\x02\x18\x02", "type 2, expected 1"),
    ("spiece.model", b"\x0a\x03\x0a\x01a", "T5's first pieces"),
    ("spiece.model", b"\x0a\x7f\x0a\x01a", "not a SentencePiece model"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_damaged_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    if b'"a"' in content:
        (tmp_path / "merges.txt").write_text("")
    with pytest.raises((FormatError, FileNotFoundError), match=message) as caught:
        vocabulary.load(path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_merges_are_named(tmp_path):
    roberta(tmp_path)
    path = tmp_path / "merges.txt"
    path.write_text("a b c\n")
    with pytest.raises(FormatError, match=r"merges\.txt: line 1: expected two parts"):
        vocabulary.load(tmp_path / "vocab.json")
    path.write_text("nobody knows\n")
    with pytest.raises(FormatError, match=r"vocab\.json: not a tokenizer"):
        vocabulary.load(tmp_path / "vocab.json")


def test_padding_of_msclap_is_a_token_of_its_own(tmp_path):
    """Its wrapper makes "!" the padding token, which cuts "!!" in two (CLAPWrapper.py)."""
    theirs = gpt2(tmp_path)
    assert len(theirs("stop!!")["input_ids"]) < len(theirs("stop! !")["input_ids"]) - 1
    theirs.add_special_tokens({"pad_token": "!"})
    config = dataclasses.replace(TextConfig.preset("gpt2"), **GPT2)
    ours = text.Tokenizer(tmp_path / "vocab.json", config)
    for one in ("stop!! now !", "it's 3!!!", *ODD[:3]):
        want = theirs(f"{one} <|endoftext|>")["input_ids"]
        assert ours.encode([one])[0].tolist() == want


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_load_or_are_refused(tmp_path, kind):
    """Whatever the library does with them, panics of its Rust code included."""
    KINDS[kind](tmp_path)
    draw = random.Random(kind)  # noqa: S311
    files = sorted(tmp_path.iterdir())
    for _ in range(60):
        path = draw.choice(files)
        good = path.read_bytes()
        path.write_bytes(mutated(good, draw))
        with contextlib.suppress(FormatError, FileNotFoundError):
            tokenizer = text.Tokenizer(text.find_tokenizer(tmp_path), TextConfig())
            tokenizer.encode(["rain on a tin roof", ODD[4]])
        path.write_bytes(good)


def mutated(data, draw):
    """Return a copy with bytes changed, doubled, lost, or with its end cut off."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at, size = draw.randrange(len(data)), draw.randrange(1, 50)
        kind = draw.randrange(4)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at:at] = data[at : at + size]
        elif len(data) > 2 * size:
            at = at if kind == 2 else len(data) - size
            del data[at : at + size]
    return bytes(data)
