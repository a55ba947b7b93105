"""Folders of plain text models, whose tower training takes as its frozen text tower.

BERT, RoBERTa, T5, GPT-2 and CLIP as transformers saves them: ``config.json`` with
``model.safetensors`` or ``pytorch_model.bin``, and a tokenizer. Pooled as the CLAP models do that
use this kind.
"""

import dataclasses
from pathlib import Path
from typing import Any

from reclap.checkpoints import model_folder
from reclap.checkpoints.families.activations import activation_of
from reclap.checkpoints.families.assemble import below
from reclap.checkpoints.families.microsoft import BERT, GPT2
from reclap.checkpoints.families.shards import weight_files, weights
from reclap.checkpoints.families.text_config import kind_of, left_of, tower_of
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.model import ClapConfig
from reclap.config.ranges import Activation
from reclap.config.text_tower import TextConfig
from reclap.errors import FormatError
from reclap.io import files
from reclap.text.tokenizer import find_tokenizer

__all__ = ["TextTower", "convert", "is_text_folder", "read", "sources"]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Keys of config.json of one kind of text model.

    Parameters
    ----------
    preset : str
        Preset of `TextConfig`.
    fields : dict of str to str
        Their key to our field: sizes that the tensors tell, which must agree.
    told : dict of str to str
        The same for what no tensor tells.
    used : dict of str to object
        Settings of the CLAP model that has this tower.
    """

    preset: str
    fields: dict[str, str]
    told: dict[str, str]
    used: dict[str, Any] = dataclasses.field(default_factory=dict)


_COMMON = {"vocab_size": "vocab", "hidden_size": "width", "num_hidden_layers": "layers"}
_TABLES = _COMMON | {"intermediate_size": "mlp", "max_position_embeddings": "positions"}
_BERT_FIELDS = _TABLES | {"type_vocab_size": "types"}
_BERT_TOLD = {"num_attention_heads": "heads", "layer_norm_eps": "eps", "hidden_act": "activation"}
_T5_FIELDS = {
    "vocab_size": "vocab",
    "d_model": "width",
    "num_layers": "layers",
    "d_ff": "mlp",
    "num_heads": "heads",
    "d_kv": "head_width",
    "relative_attention_num_buckets": "buckets",
}
_GPT2_FIELDS = {
    "vocab_size": "vocab",
    "n_embd": "width",
    "n_layer": "layers",
    "n_positions": "positions",
}
_CLIP = Dialect("clip-text", _TABLES, _BERT_TOLD)
_DIALECTS = {  # by model_type
    "bert": Dialect("bert-base", _BERT_FIELDS, _BERT_TOLD, BERT),
    "roberta": Dialect("roberta-base", _BERT_FIELDS, _BERT_TOLD),
    "t5": Dialect(
        "flan-t5-large",
        _T5_FIELDS,
        {
            "layer_norm_epsilon": "eps",
            "relative_attention_max_distance": "max_distance",
            "feed_forward_proj": "activation",
        },
    ),
    "gpt2": Dialect(
        "gpt2",
        _GPT2_FIELDS,
        {"n_head": "heads", "layer_norm_epsilon": "eps", "activation_function": "activation"},
        GPT2,
    ),
    "clip_text_model": _CLIP,
    "clip": _CLIP,
}
_GATED: dict[str, Activation] = {"gated-gelu": "gelu_tanh"}  # T5's name for both settings
_PREFIXES = ("", "bert.", "roberta.", "transformer.", "text_model.")


@dataclasses.dataclass(frozen=True)
class TextTower:
    """A text model.

    Attributes
    ----------
    config : TextConfig
        Read off tensors and config.json.
    tensors : dict of str to ndarray
        Tensors by our names.
    tokenizer : Path
        See `reclap.text.vocabulary.load`.
    ignored : list of str
        Tensors that the tower does not need: heads, an unused pooler, the image tower of CLIP.
    """

    config: TextConfig
    tensors: dict[str, Stored]
    tokenizer: Path
    ignored: list[str]


def is_text_folder(folder: Path) -> bool:
    """Tell whether a folder holds a text model that this module reads."""
    config = folder / model_folder.CONFIG
    if not config.is_file():
        return False
    kind = files.read_json(config).get("model_type")
    return isinstance(kind, str) and kind in _DIALECTS


def sources(folder: Path) -> list[Path]:
    """Return the files of a folder that make its tower and tokenizer, for digests."""
    tokenizer = find_tokenizer(folder)
    merges = folder / "merges.txt"
    paths = [folder / model_folder.CONFIG, *weight_files(folder)]
    return paths + ([merges] if merges.is_file() else []) + ([tokenizer] if tokenizer else [])


def read(folder: Path) -> TextTower:
    """Read a folder of a text model.

    Raises
    ------
    FormatError
        If it is of another kind, its tensors are not those of the kind, or config.json contradicts
        them; both are shown.
    FileNotFoundError
        If it holds no weights or no tokenizer.
    """
    path = folder / model_folder.CONFIG
    said = files.read_json(path)
    kind = said.get("model_type")
    dialect = _DIALECTS.get(kind) if isinstance(kind, str) else None
    if dialect is None:
        raise FormatError(
            f"{folder}: a {kind!r} model of transformers, expected one of {', '.join(_DIALECTS)}"
        )
    if kind == "clip":
        said = said.get("text_config") or {}
    tokenizer = find_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder}: no tokenizer.json, and no vocabulary to make one of")
    tensors = weights(folder)
    try:
        inside, ignored = _tower_of_model(tensors)
        known = _told(said, dialect)
        config, renamed = tower_of(inside, dialect.preset, **dialect.used | known)
        config = _pooled(config, renamed)
        _compare(config, said, dialect)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    if config.pool != "pooler":
        renamed = {n: x for n, x in renamed.items() if not n.startswith("text_branch.pooler.")}
    ignored += left_of(inside, renamed)
    return TextTower(config, renamed, tokenizer, ignored)


def _tower_of_model(tensors: Tensors) -> tuple[dict[str, Any], list[str]]:
    """Return the tower's tensors without the prefix of a wrapping model, and other names."""
    for prefix in _PREFIXES:
        inside = below(tensors, prefix)
        try:
            kind_of(inside)
        except FormatError:
            continue
        return inside, [name for name in tensors if not name.startswith(prefix)]
    kind_of(tensors)  # says what is expected
    return {}, []


def _told(said: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Return the settings that only config.json holds, by our names."""
    known = {}
    preset = TextConfig.preset(dialect.preset)
    for key, field in dialect.told.items():
        if key not in said:
            continue
        value = said[key]
        if field == "activation":
            value = activation_of(key, value, _GATED)
        elif type(value) not in (int, type(getattr(preset, field))):
            raise FormatError(f"{key} is {value!r}, expected a number")
        known[field] = value
    return known


def _pooled(config: TextConfig, renamed: dict[str, Stored]) -> TextConfig:
    """Return the mean over tokens as the pooling of a tower whose pooler is missing."""
    if config.pool == "pooler" and "text_branch.pooler.weight" not in renamed:
        return dataclasses.replace(config, pool="mean")
    return config


def _compare(config: TextConfig, said: dict[str, Any], dialect: Dialect) -> None:
    have = {key: getattr(config, field) for key, field in dialect.fields.items()}
    wrong = [
        f"{key} is {said[key]!r}, the tensors have {value!r}"
        for key, value in have.items()
        if key in said and said[key] != value
    ]
    if wrong:
        raise FormatError(f"contradicts the weights: {'; '.join(wrong)}")


def convert(source: Path, folder: Path) -> None:
    """Write the tower of a text model as the text side of a model folder, without an audio side."""
    tower = read(source)
    from reclap.text import vocabulary  # here, because the library takes 50 ms

    config = ClapConfig(name=source.name, text=tower.config, text_head="none")
    config = dataclasses.replace(config, dim=tower.config.width)
    model_folder.save_text(folder, config, tower.tensors, vocabulary.to_json(tower.tokenizer))
