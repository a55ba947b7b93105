"""Building of tokenizers from tokenizer.json or vocabularies.

Many folders of RoBERTa, GPT-2, CLIP, BERT and T5 hold the older files only: ``vocab.json`` with
``merges.txt``, ``vocab.txt``, or ``spiece.model``. The other parts of a tokenizer (how text is
normalised and cut, which special tokens it adds) are fixed by the kind of model and built here; the
ids equal those of transformers' tokenizers.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from reclap.errors import FormatError
from reclap.io.files import parse_json, read_json
from reclap.io.settings import from_mapping
from reclap.text import sentencepiece
from reclap.text.tokenizer_limits import check_file, check_size

__all__ = ["library_errors", "load", "to_json"]

# OpenAI's CLIP: contractions, runs of letters, single digits, runs of other signs.
_CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_MERGES = "merges.txt"
_SENTINELS = 100  # of T5, <extra_id_99> first, after the pieces


def load(path: Path) -> tokenizers.Tokenizer:
    """Read or build a tokenizer.

    Parameters
    ----------
    path : Path
        A ``tokenizer.json``; a ``vocab.json`` with ``merges.txt`` beside it (RoBERTa, GPT-2 or
        CLIP, told apart by their special tokens); a ``vocab.txt`` (BERT; lower case unless a
        ``tokenizer_config.json`` beside it says otherwise); or a ``spiece.model`` (T5).

    Raises
    ------
    FormatError
        If the file is none of these, or could take memory without end, naming it.
    """
    check_size(path)
    with library_errors(path, "not a tokenizer"):
        return _BUILDERS.get(path.name, _from_json)(path)


@contextlib.contextmanager
def library_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what the library raises into a FormatError that names the file.

    It raises bare exceptions, and for some damaged files its Rust code panics, which arrives as an
    exception outside Python's ordinary ones.
    """
    try:
        yield
    except (FormatError, OSError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{path}: {what}: {error}") from error


def to_json(path: Path) -> bytes:
    """Return the tokenizer of a file as the content of a tokenizer.json; see `load`."""
    if path.name in _BUILDERS:
        return load(path).to_str(pretty=True).encode()
    return path.read_bytes()


def _from_json(path: Path) -> tokenizers.Tokenizer:
    content = path.read_bytes()
    check_file(path, content)
    return tokenizers.Tokenizer.from_str(content.decode())


# ---- Byte-level pairs: RoBERTa, GPT-2, CLIP -----------------------------------------------------


def _from_pairs(path: Path) -> tokenizers.Tokenizer:
    vocab = parse_json(str(path), path.read_bytes())
    if not isinstance(vocab, dict) or not all(_is_id(i) for i in vocab.values()):
        raise FormatError(f"{path}: expected an object of tokens and their ids")
    merges = _read_merges(path.with_name(_MERGES))
    for (begin, end), build in _PAIR_KINDS.items():
        if begin in vocab and end in vocab:
            return build(vocab, merges, path.parent)
    kinds = "; ".join(f"{begin} and {end}" for begin, end in _PAIR_KINDS)
    raise FormatError(f"{path}: expected one of these pairs of special tokens: {kinds}")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _read_merges(path: Path) -> list[tuple[str, str]]:
    check_size(path)
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: {error}") from error
    merges = []
    for i, line in enumerate(lines):
        parts = line.rstrip("\r").split(" ")
        if not line.strip() or (i == 0 and line.startswith("#version")):
            continue
        if len(parts) != 2:
            raise FormatError(f"{path}: line {i + 1}: expected two parts, got {line!r}")
        merges.append((parts[0], parts[1]))
    return merges


def _roberta(
    vocab: dict[str, int], merges: list[tuple[str, str]], folder: Path
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"])
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    mask = tokenizers.AddedToken("<mask>", lstrip=_strips_before_mask(folder), special=True)
    _mark_special(tokenizer, ["<s>", "</s>", "<unk>", "<pad>", mask])
    return tokenizer


def _strips_before_mask(folder: Path) -> bool:
    """Return whether ``<mask>`` takes the spaces before it; transformers' versions differ.

    The settings that a folder holds say it; without them it does not, as transformers 5 has it.
    """
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        mask = read_json(path).get("mask_token") if path.is_file() else None
        if isinstance(mask, dict) and isinstance(mask.get("lstrip"), bool):
            return bool(mask["lstrip"])
    return False


def _gpt2(
    vocab: dict[str, int], merges: list[tuple[str, str]], folder: Path
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _mark_special(tokenizer, ["<|endoftext|>"])
    return tokenizer


def _clip(
    vocab: dict[str, int], merges: list[tuple[str, str]], folder: Path
) -> tokenizers.Tokenizer:
    begin, end = "<|startoftext|>", "<|endoftext|>"
    model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=end)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocab[end]), (begin, vocab[begin]), trim_offsets=False, add_prefix_space=False
    )
    _mark_special(tokenizer, [begin, end])
    return tokenizer


def _mark_special(
    tokenizer: tokenizers.Tokenizer, tokens: Sequence[str | tokenizers.AddedToken]
) -> None:
    """Let a text that spells a special token give its id; tokens without an id are passed over."""
    whole = [tokenizers.AddedToken(t, special=True) if isinstance(t, str) else t for t in tokens]
    tokenizer.add_special_tokens([t for t in whole if tokenizer.token_to_id(t.content) is not None])


_PAIR_KINDS: dict[tuple[str, str], Callable[..., tokenizers.Tokenizer]] = {
    ("<s>", "</s>"): _roberta,
    ("<|startoftext|>", "<|endoftext|>"): _clip,
    ("<|endoftext|>", "<|endoftext|>"): _gpt2,
}


# ---- Word pieces: BERT ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _BertSettings:
    """What tokenizer_config.json may say."""

    do_lower_case: bool = True
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None


def _from_words(path: Path) -> tokenizers.Tokenizer:
    try:
        words = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: {error}") from error
    vocab = {word: i for i, word in enumerate(words)}
    special = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    if missing := [t for t in ("[UNK]", "[SEP]", "[CLS]") if t not in vocab]:
        raise FormatError(f"{path}: {', '.join(missing)} missing")
    settings = _bert_settings(path.with_name("tokenizer_config.json"))
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.tokenize_chinese_chars,
        strip_accents=settings.strip_accents,
        lowercase=settings.do_lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = ("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"])
    tokenizer.post_processor = processors.BertProcessing(*ends)
    _mark_special(tokenizer, special)
    return tokenizer


def _bert_settings(path: Path) -> _BertSettings:
    said: dict[str, Any] = read_json(path) if path.is_file() else {}
    known = [field.name for field in dataclasses.fields(_BertSettings)]
    return from_mapping(_BertSettings, {k: said[k] for k in known if k in said}, str(path))


# ---- Unigrams: T5 --------------------------------------------------------------------------------


def _from_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    model = sentencepiece.read(path)
    if model.pieces[:3] != ["<pad>", "</s>", "<unk>"]:
        raise FormatError(f"{path}: expected T5's first pieces, got {model.pieces[:3]}")
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(_SENTINELS))]
    scores = [*zip(model.pieces, model.scores, strict=True), *((s, 0.0) for s in sentinels)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(scores, unk_id=2, byte_fallback=False))
    if model.normalization:
        tokenizer.normalizer = normalizers.Precompiled(model.normalization)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    _mark_special(tokenizer, ["<pad>", "</s>", "<unk>", *sentinels])
    return tokenizer


_BUILDERS: dict[str, Callable[[Path], tokenizers.Tokenizer]] = {
    "vocab.json": _from_pairs,
    "vocab.txt": _from_words,
    "spiece.model": _from_sentencepiece,
}
