"""Export of a model as a checkpoint of LAION-CLAP, whose layout ReCLAP shares.

All that ``load_state_dict`` of the model of laion_clap expects is written, also what embedding does
not need: fixed transforms and masks as they are computed there, layers that only tag sounds or only
serve another loss as zeros.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from reclap.audio.features import mel_filters
from reclap.audio.front import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.families import cnn14, htsat_buffers, laion, mel_bank, text_names
from reclap.checkpoints.lazy import Array, Stored, Tensors
from reclap.checkpoints.torch_file import write_state
from reclap.config.model import ClapConfig
from reclap.config.text_tower import TextConfig
from reclap.config.towers import AudioTower, Cnn14Config, HtsatConfig
from reclap.errors import FormatError
from reclap.io import files

__all__ = ["FILE", "misfits", "state_dict", "write"]

FILE = "model.pt"

_CLASSES = 527  # of AudioSet
_BRANCH = "audio_branch."
_TRAINING = {"drop_path", "dropout", "fc_dropout", "bn_momentum"}
_TRAINING |= {"time_stripes", "time_width", "freq_stripes", "freq_width"}
# What laion_clap does with any model, and what long clips become: `reclap.load` decides anew.
_ANEW = {"quantize", "resampler", "fusion_resize", "silence", "window_hop"}


def write(folder: Path, config: ClapConfig, tensors: Tensors, tokenizer: bytes | None) -> None:
    """Write a folder with ``model.pt``, which laion_clap and `reclap.load` take, and a tokenizer.

    Parameters
    ----------
    folder : Path
        Made whole if absent; else its files are replaced, and only once all are on disk.
    config : ClapConfig
        The model.
    tensors : mapping of str to ndarray
        Tensors by our names.
    tokenizer : bytes, optional
        Content of a tokenizer.json, which laion_clap does not need; without it there is none.

    Raises
    ------
    FormatError
        If the model does not fit, with every reason.
    """
    wrong = _outside(config)
    state = {} if wrong else state_dict(config, tensors)
    if wrong := wrong or misfits(config, state):
        raise FormatError(
            f"{folder}: this model does not fit the layout of LAION-CLAP: {'; '.join(wrong)}"
        )
    texts = {} if tokenizer is None else {model_folder.TOKENIZER: tokenizer}
    with files.staged_folder(folder, FILE, *texts) as (file, *others):
        for path, content in zip(others, texts.values(), strict=True):
            path.write_bytes(content)
        write_state(file, state, {"epoch": 0, "name": config.name})


def _outside(config: ClapConfig) -> list[str]:
    """Return why a model has tensors that the layout has no names for."""
    wrong = [
        f"{name}_head is {getattr(config, f'{name}_head')!r}, expected 'mlp'"
        for name in ("audio", "text")
        if getattr(config, f"{name}_head") != "mlp"
    ]
    audio = config.audio
    if isinstance(audio, Cnn14Config) and len(audio.widths) != cnn14.BLOCKS:
        wrong.append(f"Cnn14 has {len(audio.widths)} blocks, expected {cnn14.BLOCKS}")
    elif isinstance(audio, HtsatConfig) and not (audio.qkv_bias and audio.patch_norm):
        wrong.append("the audio tower has no bias of queries, keys and values, or no patch norm")
    elif not isinstance(audio, HtsatConfig | Cnn14Config):
        wrong.append(f"the audio tower is {audio.kind}, expected htsat or cnn14")
    if config.text.pool == "nonzero":
        wrong.append("the text tower is GPT-2, expected RoBERTa, BERT, T5 or CLIP's")
    return wrong


def misfits(config: ClapConfig, state: Tensors) -> list[str]:
    """Return in what a model differs from the one that is read from its state dict.

    Without the fixed transform, so that a front end of other sizes is named by its settings.
    """
    state = {name: x for name, x in state.items() if "_extractor." not in name}
    activation = config.text.activation if _kind(config.text) == "clip" else None
    try:
        found = laion.read(Path(FILE), state, activation).config
    except ValueError as error:
        return [str(error)]
    parts = {"front": _ANEW, "audio": _TRAINING, "text": set()}
    wrong = [] if config.dim == found.dim else [f"dim is {config.dim}, expected {found.dim}"]
    for part, free in parts.items():
        have, expected = (_said(getattr(c, part)) for c in (config, found))
        wrong += [
            f"{part}.{name} is {value!r}, expected {expected.get(name)!r}"
            for name, value in have.items()
            if name not in free and expected.get(name) != value
        ]
    return wrong


def _said(part: AudioConfig | AudioTower | TextConfig) -> dict[str, Any]:
    """Return settings, the width of heads also where it follows from the others."""
    said = dataclasses.asdict(part)
    if isinstance(part, TextConfig):
        said["head_width"] = part.head_width or part.width // part.heads
    return said


def state_dict(config: ClapConfig, tensors: Tensors) -> dict[str, Stored]:
    """Return the state dict of LAION-CLAP's model, by its names.

    Parameters
    ----------
    config : ClapConfig
        The model: HTSAT or Cnn14, heads of two layers, and a text tower that LAION-CLAP has.
    tensors : mapping of str to ndarray
        Tensors by our names.
    """
    audio = {name: x for name, x in tensors.items() if name.startswith(_BRANCH)}
    text = {name: x for name, x in tensors.items() if name.startswith("text_branch.")}
    heads = {name: x for name, x in tensors.items() if "_projection." in name}
    buffers = _cnn14 if isinstance(config.audio, Cnn14Config) else _htsat
    scales = dict.fromkeys(("logit_scale_a", "logit_scale_t"), tensors["logit_scale"])
    return (
        scales
        | {name: _outward(name, x) for name, x in audio.items()}
        | {_BRANCH + name: x for name, x in (buffers(config) | _transform(config.front)).items()}
        | _text(config.text, text)
        | heads
        | _transforms(config.dim)
    )


def _outward(name: str, tensor: Stored) -> Stored:
    """Return a tensor of the audio tower as LAION-CLAP keeps it."""
    is_kernel = ".conv_block" in name and tensor.ndim == 4
    return cnn14.channels_first(tensor) if is_kernel else tensor


def _transforms(dim: int) -> dict[str, Stored]:
    """Return the layers of the loss with transform MLPs, which no model here has."""
    sizes = {"weight": (dim, dim), "bias": (dim,)}
    return {
        f"{side}_transform.sequential.{i}.{kind}": _zeros(*shape)
        for side in ("audio", "text")
        for i in (0, 3)
        for kind, shape in sizes.items()
    }


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def _counters(names: list[str]) -> dict[str, Stored]:
    return {f"{name}.num_batches_tracked": np.zeros((), np.int64) for name in names}


def _htsat(config: ClapConfig) -> dict[str, Stored]:
    """Return buffers and layers that only tag sounds (``clap_module/htsat.py``)."""
    tower = config.audio
    if not isinstance(tower, HtsatConfig):
        raise TypeError(f"an audio tower {tower.kind} has no such buffers")
    norms = [f"patch_embed.fusion_model.{x}" for x in htsat_buffers.FUSED_NORMS if tower.fusion]
    out = _counters(["bn0", *norms])
    index = htsat_buffers.relative_index(tower.window)
    for stage, depth in enumerate(tower.depths):
        mask = htsat_buffers.shift_mask(tower, stage)
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            out[f"{at}attn.relative_position_index"] = index
            if block % 2 and mask is not None:
                out[f"{at}attn_mask"] = mask
    last = (tower.spec_size // tower.patch) >> (len(tower.depths) - 1)
    rows = last * tower.mels // tower.spec_size  # of one sub-band
    out |= {
        "tscam_conv.weight": _zeros(_CLASSES, tower.width, rows, 3),
        "tscam_conv.bias": _zeros(_CLASSES),
        "head.weight": _zeros(_CLASSES, _CLASSES),
        "head.bias": _zeros(_CLASSES),
    }
    return out


def _cnn14(config: ClapConfig) -> dict[str, Stored]:
    """Return counters and the layer that tags sounds (``clap_module/pann_model.py``)."""
    norms = [f"conv_block{i + 1}.bn{j}" for i in range(cnn14.BLOCKS) for j in (1, 2)]
    return _counters(["bn0", *norms]) | {
        "fc_audioset.weight": _zeros(_CLASSES, config.audio.width),
        "fc_audioset.bias": _zeros(_CLASSES),
    }


def _transform(front: AudioConfig) -> dict[str, Stored]:
    """Return torchlibrosa's transform and mel bank, Slaney's also where fusion has its own."""
    n = front.n_fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)  # Hann, periodic
    turns = np.outer(np.arange(n // 2 + 1), np.arange(n)) % n * (2 * np.pi / n)
    real, imaginary = np.cos(turns) * window, -np.sin(turns) * window
    bank = mel_filters(dataclasses.replace(front, mel_scale="slaney", mel_norm="slaney"))
    stft = "spectrogram_extractor.stft.conv_{}.weight"
    return {
        stft.format("real"): real[:, np.newaxis].astype(np.float32),
        stft.format("imag"): imaginary[:, np.newaxis].astype(np.float32),
        mel_bank.NAME: np.ascontiguousarray(bank.T),
    }


# ---- Text towers ---------------------------------------------------------------------------------


def _kind(text: TextConfig) -> str:
    if text.norm == "rms":
        return "t5"
    return "clip" if text.causal else "bert"


def _text(text: TextConfig, tensors: Tensors) -> dict[str, Stored]:
    """Return the text tower by LAION-CLAP's names; of CLIP's some lie outside text_branch."""
    prefix, kind = "text_branch.", _kind(text)
    if kind == "t5":
        return {prefix + name: x for name, x in text_names.to_t5(tensors).items()}
    if kind == "clip":
        named = text_names.to_clip(tensors)
        inside = {name: prefix * name.startswith("resblocks.") for name in named}
        return {inside[name] + name: x for name, x in named.items()}
    tower: dict[str, Stored] = {prefix + n: x for n, x in text_names.to_roberta(tensors).items()}
    positions = np.arange(text.positions, dtype=np.int64)[np.newaxis]
    return tower | {f"{prefix}embeddings.position_ids": positions}  # laion_clap's reader drops it
