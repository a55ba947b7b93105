"""Small model folders with random weights, and sounds to try them on."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from models import draw_parameter
from tokenizers import pre_tokenizers, processors
from tokenizers.models import WordPiece

from reclap.checkpoints import model_folder
from reclap.config import ClapConfig
from reclap.runtime.libraries import core

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "sounds"
RATE = 16000
LETTERS = "abcdefghijklmnopqrstuvwxyz"

CONFIG: dict[str, Any] = {
    "name": "small",
    "front": {
        "rate": RATE,
        "samples": RATE,
        "n_fft": 512,
        "hop": 160,
        "mels": 16,
        "fmax": 8000.0,
    },
    "audio": {"mels": 16, "spec_size": 64, "embed": 16, "depths": [1, 1], "heads": [2, 4]},
    "text": {
        "vocab": 5 + 2 * len(LETTERS),
        "positions": 40,
        "width": 24,
        "layers": 2,
        "heads": 4,
        "mlp": 48,
        "max_tokens": 32,
    },
    "dim": 20,
    "template": "a sound of {label}",
}


def fused_config() -> dict[str, Any]:
    """Return `CONFIG` with feature fusion."""
    parts = {"front": {"truncation": "fusion"}, "audio": {"fusion": True}}
    return CONFIG | {name: CONFIG[name] | more for name, more in parts.items()}


def write_folder(folder: Path, seed: int = 0, data: dict[str, Any] = CONFIG) -> Path:
    """Write a complete model folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ClapConfig.from_json(data)
    rng = np.random.default_rng(seed)
    tensors = {
        name: draw_parameter(rng, name, shape)
        for name, shape, _ in core.Model(**config.core_arguments(with_text=True)).parameters()
    }
    text = {n: x for n, x in tensors.items() if n.startswith("text_branch.")}
    model_folder.write_tensors(folder / model_folder.TEXT, text)
    _tokenizer().save(str(folder / model_folder.TOKENIZER))
    rest = {n: x for n, x in tensors.items() if n not in text}
    model_folder.save(folder, config, rest, folder)
    return folder


def _tokenizer() -> tokenizers.Tokenizer:
    """Return a tokenizer of single letters, in the manner of BERT."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def tone(hz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """Return a decaying tone, float32 in [-1, 1]."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * t) * np.exp(-t)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write float samples as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def write_stereo(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write float samples (T, 2) as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as f:
        f.setparams((2, 2, rate, 0, "NONE", ""))
        f.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path
