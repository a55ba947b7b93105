"""Every reader of files, with a small right file of each kind; for damaged copies of them."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import adapters
import folders
import mutations
import numpy as np
import soundfile
import training

from reclap import audio
from reclap.checkpoints import adapter
from reclap.io import manifest
from reclap.prompts.bank import PromptBank
from reclap.retrieval.embeddings import Embeddings
from reclap.store import Header, Store, Writer
from reclap.training import recipe

RECIPE = """
[model]
text = "mini"
[model.front]
rate = 16000
[data]
manifest = "manifest.jsonl"
[run]
steps = 3
[augment]
speeds = [0.9, 1.0]
"""


def load_sound(path: Path) -> None:
    """Decode a sound and resample it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audio.load(path, 22050)


def load_adapter(path: Path) -> None:
    """Read an adapter."""
    adapter.load(path)


def load_manifest(path: Path) -> None:
    """Read a manifest."""
    manifest.read(path)


def load_bank(path: Path) -> None:
    """Read a prompt bank and draw from it."""
    bank = PromptBank.load(path)
    with contextlib.suppress(ValueError):  # a label with too few prompts
        bank.sample(1)


def load_archive(path: Path) -> None:
    """Read an archive of embeddings."""
    Embeddings.load(path).rows.sum()


def load_store(path: Path) -> None:
    """Read every row, item and metadata of the store that a file lies in."""
    store = Store(path.parent)
    np.asarray(store.rows, np.float64).sum()
    for i in range(len(store.rows)):
        store.items[i], store.metadata(i)
    store.verify()


def load_recipe(path: Path) -> None:
    """Read a recipe."""
    recipe.load(path)


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "safetensors": ("model/model.safetensors", mutations.load_tensors),
    "adapter": ("adapter.safetensors", load_adapter),
    "config": ("model/config.json", mutations.load_config),
    "tokenizer": ("model/tokenizer.json", mutations.load_tokenizer),
    "wav": ("a.wav", load_sound),
    "flac": ("a.flac", load_sound),
    "ogg": ("a.ogg", load_sound),
    "jsonl": ("set/manifest.jsonl", load_manifest),
    "csv": ("set/manifest.csv", load_manifest),
    "bank": ("bank.json", load_bank),
    "npz": ("rows.npz", load_archive),
    "rows": ("x.store/rows.bin", load_store),
    "text": ("x.store/text.bin", load_store),
    "index": ("x.store/index.bin", load_store),
    "header": ("x.store/header.json", load_store),
    "recipe": ("set/recipe.toml", load_recipe),
}


def write_all(folder: Path) -> Path:
    """Write a right file of every kind; return the folder."""
    model = folders.write_folder(folder / "model")
    adapter.save(folder / "adapter.safetensors", adapters.made_for(model, rank=2, alpha=1.0))
    tone = folders.tone(440, 0.2)
    for kind in ("wav", "flac", "ogg"):
        soundfile.write(folder / f"a.{kind}", tone, folders.RATE)
    lines = training.write_set(folder / "set")
    names = sorted(path.name for path in lines.parent.glob("*.wav"))
    rows = [f'{name},g{i},"A sound, number {i}."' for i, name in enumerate(names)]
    (folder / "set" / "manifest.csv").write_text("\n".join(["path,group,caption", *rows, ""]))
    (folder / "set" / "recipe.toml").write_text(RECIPE)
    PromptBank.from_prompts({"dog": ["a bark", "a yelp"], "rain": ["drops"]}).save(
        folder / "bank.json"
    )
    vectors = np.eye(3, 4, dtype=np.float32)
    names = ("a", "b", "\N{SNOWMAN}")
    Embeddings(vectors, names, "audio", "example", "0" * 64).save(folder / "rows.npz")
    header = Header(digest="0" * 64, dim=4, kind="audio", model="example")
    with Writer(folder / "x.store", header) as writer:
        writer.append(vectors, ["a", "b", "c"], [{"seconds": 5}, None, {"x": [1]}])
    return folder
