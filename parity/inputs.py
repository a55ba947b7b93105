"""Real sounds and captions that every row is compared on; tokenizers trained on the captions."""

import csv
import json
import os
from pathlib import Path

import librosa
import numpy as np
import soundfile
import tokenizers
import transformers

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RECLAP_SHARED") or ROOT.parent / "shared")
STEREO = ("thunder", "jazz_guitar", "applause", "typing")  # 14, 11, 10.5 and 12 s, two channels


def esc10(count: int) -> list[Path]:
    """Return clips of ESC-10, 5 s, mono at 44.1 kHz, from all its classes."""
    found = sorted((SHARED / "audio" / "esc10").glob("*/*.ogg"))
    return found[:: len(found) // count][:count]


def files(folder: Path, seconds: float, *, few: bool) -> dict[str, list[Path]]:
    """Return files by what they need of a reader, none longer than a window of so many seconds.

    Clips of ESC-10; where they are too long, WAV files of their first four seconds. Two seconds at
    48 kHz, mono and stereo. Whole seconds at rates where librosa's length rule adds a sample.
    """
    chosen = esc10(2 if few else 5)
    if seconds <= 5:
        chosen = [_write(folder / f"{p.stem}.wav", *_read(p, 4)) for p in chosen]
    samples, rate = _read(SHARED / "audio" / "stereo" / "typing.wav", 2)
    mono = _write(folder / "mono.wav", samples.mean(axis=1), rate)
    return {
        "files": chosen,
        "resampled": [mono],
        "stereo": [_write(folder / "stereo.wav", samples, rate)],
        "whole": _whole_seconds(folder, int(seconds)),
    }


def _whole_seconds(folder: Path, most: int) -> list[Path]:
    """Return files of 1, 2 and 5 s, or at most as long as the window, at common rates."""
    path = SHARED / "audio" / "stereo" / "typing.wav"
    found = []
    for seconds in sorted({1, 2, min(5, most)}):
        for rate in (44100, 22050, 11025, 32000):
            samples = librosa.load(path, sr=rate)[0][: seconds * rate]
            found.append(_write(folder / f"whole_{seconds}_{rate}.wav", samples, rate))
    return found


def _read(path: Path, seconds: int) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32")
    return samples[: seconds * rate], rate


def _write(path: Path, samples: np.ndarray, rate: int) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def clips(rate: int, window: int, *, few: bool) -> dict[str, np.ndarray]:
    """Return mono clips at `rate` by name: short ones, real ones, all lengths around the window."""
    paths = [SHARED / "audio" / "stereo" / f"{name}.wav" for name in STEREO[: 1 if few else None]]
    long = {path.stem: _clip(path, rate) for path in paths}
    whole = np.concatenate(list(long.values()))
    short = {path.stem: _clip(path, rate) for path in esc10(1 if few else 5)}
    short |= {"a second": whole[rate : 2 * rate], "the window": whole[:window]}
    short |= {"one sample more": whole[: window + 1]}
    if few:
        return short | long
    short |= {"a hundredth of a second": whole[rate : rate + rate // 100]}
    return short | long | {"one sample less": whole[: window - 1], "30 s": whole[: 30 * rate]}


def _clip(path: Path, rate: int) -> np.ndarray:
    return librosa.load(path, sr=rate)[0]


def captions(count: int) -> list[str]:
    """Return distinct captions of AudioCaps in the order of their file."""
    with (SHARED / "captions" / "audiocaps_test.csv").open(newline="", encoding="utf-8") as f:
        every = dict.fromkeys(row["caption"] for row in csv.DictReader(f))
    return list(every)[:count]


def labels(count: int) -> list[str]:
    """Return labels of ESC-50."""
    return (SHARED / "labels" / "ESC50.txt").read_text().split("\n")[:count]


def texts(tokenizer: transformers.PreTrainedTokenizerBase, suffix: str, longest: int) -> list[str]:
    """Return texts of one token, of 20, of as many as the tower takes, of more; odd ones; captions.

    Special tokens count, but not in the text of one token.
    """
    words = list(dict.fromkeys(" ".join(captions(200)).split()))
    alone = next(w for w in words if len(tokenizer.tokenize(w)) == 1)
    exact = [_of_length(tokenizer, suffix, n, words) for n in (20, longest)]
    odd = ["Stop ! Really!", "  spaces\tand a tab ", "Café ☕ naïve", "CAPITALS, 100 %"]
    return [alone, *exact, " ".join(words[: 2 * longest]), *odd, *captions(20)]


def _of_length(
    tokenizer: transformers.PreTrainedTokenizerBase, suffix: str, length: int, words: list[str]
) -> str:
    text = words[0]
    while (have := len(tokenizer(text + suffix)["input_ids"])) < length:
        for word in words:
            if len(tokenizer(f"{text} {word}{suffix}")["input_ids"]) <= length:
                text = f"{text} {word}"
                break
        else:
            raise ValueError(f"no word fits in {length - have} tokens")
    return text


def roberta_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Return a RobertaTokenizer with a byte-level BPE of the captions."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab, merges = _bpe(special)
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def gpt2_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Return a GPT2Tokenizer whose first token is "!" and whose last is the end marker, as theirs.

    MS-CLAP pads with "!" and takes every id 0 for padding.
    """
    vocab, merges = _bpe([])
    assert vocab["!"] == 0
    return transformers.GPT2Tokenizer(vocab=vocab | {"<|endoftext|>": len(vocab)}, merges=merges)


def _bpe(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    trained = tokenizers.ByteLevelBPETokenizer()
    examples = [*captions(2000), *["Stop !"] * 100]  # that gives a token of " !"
    trained.train_from_iterator(examples, vocab_size=4000, special_tokens=special)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def bert_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Return a BertTokenizer with a WordPiece of the captions."""
    trained = tokenizers.BertWordPieceTokenizer()
    trained.train_from_iterator(captions(2000), vocab_size=4000)
    return transformers.BertTokenizer(vocab=trained.get_vocab())


def t5_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Return a T5Tokenizer with a unigram model of the captions."""
    trained = tokenizers.SentencePieceUnigramTokenizer()
    special = ["<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        captions(2000), vocab_size=4000, special_tokens=special, unk_token=special[-1]
    )
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    return transformers.T5Tokenizer(vocab=[(piece, score) for piece, score in pieces])
