"""Export of a model as a folder of transformers' ClapModel."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reclap.checkpoints import model_folder
from reclap.checkpoints.families import htsat_buffers, htsat_names, text_names
from reclap.checkpoints.families.hf_clap import EXTRACTOR
from reclap.checkpoints.families.hf_config import EPS, Extractor, described
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.model import ClapConfig
from reclap.config.text_tower import TextConfig
from reclap.config.towers import HtsatConfig
from reclap.errors import FormatError
from reclap.io import files

__all__ = ["misfits", "write"]

# Sizes and settings of a text tower that config.json of a ClapModel can say.
_FREE = {
    "vocab",
    "positions",
    "types",
    "width",
    "layers",
    "heads",
    "mlp",
    "eps",
    "activation",
    "position_offset",
    "max_tokens",
}
_SPECIAL = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"}


def misfits(config: ClapConfig) -> list[str]:
    """Return why a model is no ClapModel: HTSAT and RoBERTa, with LAION-CLAP's heads.

    Samples that LAION-CLAP rounds to 16 bits (``front.quantize``) are no reason: transformers does
    not round, in the folders of its own either.
    """
    wrong = [
        f"{name}_head is {getattr(config, f'{name}_head')!r}, expected 'mlp'"
        for name in ("audio", "text")
        if getattr(config, f"{name}_head") != "mlp"
    ]
    if not isinstance(config.audio, HtsatConfig):
        return [f"the audio tower is {config.audio.kind}, expected htsat", *wrong]
    if config.audio.eps != EPS:
        wrong.append(f"audio.eps is {config.audio.eps}, expected {EPS}")
    front = config.front
    if front.samples % front.rate:
        wrong.append(f"a window is {front.window_seconds} s, expected whole seconds")
    said = dataclasses.replace(Extractor.from_front(front), max_length_s=front.window_seconds)
    sayable = said.to_front(fused=config.audio.fusion)
    sayable = dataclasses.replace(sayable, samples=front.samples, quantize=front.quantize)
    wrong += _differences("front", front, sayable)
    return wrong + _text_misfits(config.text)


def _text_misfits(config: TextConfig) -> list[str]:
    sizes = {name: getattr(config, name) for name in _FREE}
    expected = dataclasses.replace(TextConfig.preset("roberta-base"), **sizes)
    if config.head_width * config.heads == config.width:  # said twice
        expected = dataclasses.replace(expected, head_width=config.head_width)
    wrong = _differences("text", config, expected)
    if config.types < 1 or config.position_offset < 1:
        wrong.append("the text tower has no segments or no row for padding, as RoBERTa has")
    return wrong


def _differences(part: str, have: Any, expected: Any) -> list[str]:
    names = [field.name for field in dataclasses.fields(have)]
    pairs = {name: (getattr(have, name), getattr(expected, name)) for name in names}
    return [f"{part}.{n} is {a!r}, expected {b!r}" for n, (a, b) in pairs.items() if a != b]


def write(folder: Path, config: ClapConfig, tensors: Tensors, tokenizer: bytes | None) -> None:
    """Write a folder that ``ClapModel.from_pretrained`` and ``AutoProcessor`` take.

    Parameters
    ----------
    folder : Path
        Made whole if absent; else its files are replaced, and only once all are on disk.
    config : ClapConfig
        The model.
    tensors : mapping of str to ndarray
        Tensors by our names.
    tokenizer : bytes, optional
        Content of a tokenizer.json; without it the folder has no tokenizer.

    Raises
    ------
    FormatError
        If the model does not fit, with every reason.
    """
    if wrong := misfits(config):
        raise FormatError(
            f"{folder}: this model does not fit transformers' ClapModel: {'; '.join(wrong)}"
        )
    texts = {
        model_folder.CONFIG: _as_json(_config(config)),
        EXTRACTOR: _as_json(_extractor(config)),
        **_tokenizer_files(config, tokenizer),
    }
    names = (*texts, model_folder.MODEL)
    with files.staged_folder(folder, *names) as new:
        for path, content in zip(new, texts.values(), strict=False):
            path.write_bytes(content)
        model_folder.write_tensors(new[-1], _weights(config, tensors), {"format": "pt"})


def _as_json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _config(config: ClapConfig) -> dict[str, Any]:
    said = described(config)
    said["audio_config"] = {"aff_block_r": 4, "fusion_type": "aff_2d"} | said["audio_config"]
    return {"architectures": ["ClapModel"], "model_type": "clap", **said}


def _extractor(config: ClapConfig) -> dict[str, Any]:
    kinds = {
        "feature_extractor_type": "ClapFeatureExtractor",
        "processor_class": "ClapProcessor",
        "nb_max_samples": config.front.samples,
    }
    said = dataclasses.asdict(Extractor.from_front(config.front))
    return kinds | said | {"max_length_s": config.front.samples // config.front.rate}


def _tokenizer_files(config: ClapConfig, content: bytes | None) -> dict[str, bytes]:
    """Return the files of the tokenizer, with its class and special tokens."""
    if content is None:
        return {}
    import tokenizers  # here, because the library takes 50 ms

    tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    special = {f"{k}_token": t for k, t in _SPECIAL.items() if tokenizer.token_to_id(t) is not None}
    padding = tokenizer.id_to_token(config.text.position_offset - 1)
    pairs = type(tokenizer.model).__name__ == "BPE"
    settings = special | {
        "tokenizer_class": "RobertaTokenizer" if pairs else "PreTrainedTokenizerFast",
        "processor_class": "ClapProcessor",
        "model_max_length": config.text.max_tokens,
        **({} if padding is None else {"pad_token": padding}),
    }
    return {
        model_folder.TOKENIZER: content,
        "tokenizer_config.json": _as_json(settings),
    }


def _weights(config: ClapConfig, tensors: Tensors) -> dict[str, Stored]:
    towers = {
        "audio_model.audio_encoder.": htsat_names.to_transformers(
            _branch(tensors, "audio_branch.")
        ),
        "text_model.": text_names.to_roberta(_branch(tensors, "text_branch.")),
    }
    out = {prefix + name: x for prefix, tower in towers.items() for name, x in tower.items()}
    for head in ("audio_projection", "text_projection"):
        for ours, theirs in (("0", "linear1"), ("2", "linear2")):
            for kind in ("weight", "bias"):
                out[f"{head}.{theirs}.{kind}"] = tensors[f"{head}.{ours}.{kind}"]
    out |= dict.fromkeys(("logit_scale_a", "logit_scale_t"), tensors["logit_scale"])
    return out | _buffers(config)


def _branch(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    return {name: x for name, x in tensors.items() if name.startswith(prefix)}


def _buffers(config: ClapConfig) -> dict[str, Stored]:
    """Return the buffers that transformers stores beside the parameters."""
    tower, encoder = config.audio, "audio_model.audio_encoder."
    if not isinstance(tower, HtsatConfig):
        raise TypeError(f"ClapModel has no audio tower {tower.kind}")
    positions = np.arange(config.text.positions, dtype=np.int64)[np.newaxis]
    out: dict[str, Stored] = {
        "text_model.embeddings.position_ids": positions,
        "text_model.embeddings.token_type_ids": np.zeros_like(positions),
        f"{encoder}batch_norm.num_batches_tracked": np.zeros((), np.int64),
    }
    for norm in htsat_buffers.FUSED_NORMS if tower.fusion else ():
        name = f"{encoder}patch_embed.fusion_model.{norm}.num_batches_tracked"
        out[name] = np.zeros((), np.int64)
    index = htsat_buffers.relative_index(tower.window)
    for stage, depth in enumerate(tower.depths):
        for block in range(depth):
            at = f"{encoder}layers.{stage}.blocks.{block}.attention.self."
            out[f"{at}relative_position_index"] = index
    return out
