"""Configurations and arguments of the core with values that nobody meant, and what must follow.

Each case is drawn from (seed, number). It ends in a clean exception or in finite results of the
right shape; a crash ends the process, which fuzz/mutate_values.py watches.
"""

import copy
import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from reclap.audio.features import mel_filters
from reclap.config import ClapConfig
from reclap.config.towers import Cnn14Config, HtsatConfig, TextConfig, VitConfig
from reclap.errors import ReclapError
from reclap.runtime.libraries import core

Case = dict[str, Any]

HTSAT: Case = {
    "kind": 0, "mels": 8, "spec_size": 32, "patch": 4, "embed": 8, "fusion": False, "window": 2,
    "mlp_ratio": 2, "depths": [2, 1], "heads": [1, 2], "drop_path": 0.1, "dropout": 0.1,
    "time_stripes": 1, "time_width": 9, "freq_stripes": 1, "freq_width": 2, "bn_momentum": 0.1,
    "eps": 1e-5, "activation": 0, "qkv_bias": True, "patch_norm": True, "fusion_ratio": 4,
    "block_eps": 1e-5,
}  # fmt: skip
CNN14: Case = {"kind": 1, "mels": 8, "widths": [3, 5], "eps": 1e-5}
CNN14 |= {"dropout": 0.2, "fc_dropout": 0.5, "bn_momentum": 0.1}
VIT: Case = {
    "kind": 2, "mels": 8, "channels": 2, "frames": 120, "patch_time": 5, "patch_mel": 4,
    "width": 12, "depth": 2, "heads": 3, "mlp": 10, "activation": 0, "pool": 0, "drop_path": 0.1,
    "dropout": 0.1, "eps": 1e-6,
}  # fmt: skip
PRESETS = ("bert-base", "roberta-base", "flan-t5-large", "gpt2", "clip-text")
SMALL = {"vocab": 40, "positions": 24, "width": 16, "layers": 2, "heads": 2, "mlp": 24}
SMALL |= {"max_tokens": 12, "pad_to": 12}
TEXTS = [dataclasses.replace(TextConfig.preset(x), **SMALL).to_core() for x in PRESETS]
STEP: Case = {"seed": 1, "step": 0, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
STEP |= {"weight_decay": 0.01, "clip": 1.0}
MEL: Case = {"rate": 16000, "n_fft": 256, "hop": 100, "mels": 20, "fmin": 50.0, "fmax": 8000.0}
MEL |= {"htk": False, "area_norm": True}
SCORE: Case = {"rule": 0, "scale": 10.0, "k": 2, "explain": False, "all": True}
SCORE |= {"first": [0, 2, 3, 7], "pair": [[0, 1], [2, -1], [6, 3]]}
MODEL: Case = {"text_width": 16, "audio_head": 2, "text_head": 2, "dim": 6}
CALL: Case = {"threads": 2, "frames": 100, "clips": 2, "dtype": "float32", "lengths": [3, 1, 7]}
DTYPES = ("float32", "bfloat16", "int8", "bfloat16x1", "float32x3", "float32x6")

NUMBERS = (
    0, 1, -1, 2, 3, 5, 7, 16, 64, 65, 255, 4096, 2**16 + 1, 2**24, 2**31 - 1, 2**31, 2**32 + 5,
    2**62, 2**63 - 1, -(2**31), -(2**63), 2**63, 2**64, 2**70, 0.5, -0.0, 1e-45, 1e-30, 1e300,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
STRANGE = (None, True, False, "8", "", b"8", [], [8], {}, (), 3j, np.nan, "float32", object())
REFUSALS = (ValueError, MemoryError, ReclapError)  # in a call
UNTYPED = (*REFUSALS, TypeError, OverflowError)  # of arguments that are not what they should be
MOST_VALUES = 1 << 18  # of all parameters, for a case to be run
MOST_WORK = 1 << 24  # multiplications, about


@functools.cache
def seeds() -> list[Case]:
    """Return the valid cases that mutations begin with."""
    fused, kinds = HTSAT | {"fusion": True}, [HTSAT, HTSAT, CNN14]
    cases = [{"audio": x, "model": MODEL, "call": CALL} for x in [*kinds, fused, VIT]]
    cases += [{"text": x, "model": MODEL, "call": CALL} for x in TEXTS]
    for tower in (HTSAT, HTSAT, VIT, fused, CNN14):
        cases.append({"audio": tower, "model": MODEL, "call": CALL, "step": STEP})
    for x in TEXTS:
        both = {"audio": HTSAT, "text": x | {"dropout": 0.1}}
        cases.append({**both, "model": MODEL, "call": CALL, "step": STEP})
    return [*cases, {"mel": MEL}, {"score": SCORE, "call": CALL}, *_files()]


def _files() -> list[Case]:
    """Return the tables of config.json of each kind of tower, whose own fields stand in "top"."""
    towers = (HtsatConfig(), HtsatConfig.preset("base"), Cnn14Config(), VitConfig())
    texts = [TextConfig.preset(x) for x in PRESETS[:4]]
    cases = []
    for tower, text in zip(towers, texts, strict=True):
        data = ClapConfig(audio=tower, text=text).to_json()
        tables = {name: data.pop(name) for name in ("front", "audio", "text")}
        cases.append(tables | {"top": data})
    return cases


def mutate(rng: random.Random, seed: Case) -> Case:
    """Return a copy in which one to four fields have other values, or are missing."""
    case = copy.deepcopy(seed)
    if "call" in case:
        case["call"]["dtype"] = rng.choice(DTYPES)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        part = case[rng.choice([name for name in case for _ in range(1 + len(case[name]) // 4)])]
        if part:
            _change(rng, part, rng.choice(list(part)))
    return case


def _change(rng: random.Random, part: Any, at: Any) -> None:
    old = part[at]
    if isinstance(old, list) and old and rng.random() < 0.8:
        match rng.randrange(5):
            case 0:
                del old[rng.randrange(len(old))]
            case 1:
                old.append(copy.deepcopy(rng.choice(old)))
            case 2:
                old *= rng.choice((0, 2, 3, 5))
            case _:
                _change(rng, old, rng.randrange(len(old)))
    elif isinstance(part, dict) and rng.random() < 0.02:
        del part[at]
    else:
        part[at] = _value(rng, old)


def _value(rng: random.Random, old: Any) -> Any:
    if isinstance(old, (int, float)) and rng.random() < 0.5:
        near = (old + 1, old - 1, old * 2, old // 2, old * 3, -old, old * 1e-3, old * 8)
        value = rng.choice(near)
        return type(old)(value) if rng.random() < 0.9 and abs(value) < 1e300 else value
    if isinstance(old, int) and rng.random() < 0.1:
        return np.int64(old) if abs(old) < 2**62 else old
    return rng.choice(STRANGE if rng.random() < 0.2 else NUMBERS)


# ---- What a case does ----------------------------------------------------------------------------


def run(case: Case, number: int) -> str:
    """Run a case; return what became of it, and raise where it ends in neither way."""
    rng = np.random.default_rng(number)
    if "mel" in case:
        return _run_mel(case["mel"], rng)
    if "top" in case:
        return _run_file(case)
    call = case["call"]
    try:
        context = core.Context(call["threads"]) if "threads" in call else core.Context(1)
    except UNTYPED as error:
        return _refused(error)
    if "score" in case:
        return _run_score(case["score"], context, rng)
    return _run_model(case, context, rng)


def _refused(error: Exception) -> str:
    assert str(error), repr(error)
    return f"{type(error).__name__}"


def _attempt(call: Callable[[], Any], allowed: tuple[type[Exception], ...]) -> tuple[Any, str]:
    """Return a result and an empty string, or None and the name of a clean exception."""
    try:
        return call(), ""
    except allowed as error:
        return None, _refused(error)


def _finite(y: np.ndarray, shape: tuple[int, ...]) -> None:
    assert y.shape == shape, (y.shape, shape)
    assert np.isfinite(y).all(), y


def _run_mel(config: Case, rng: np.random.Generator) -> str:
    mel, refused = _attempt(lambda: core.Mel(**config), UNTYPED)
    if refused:
        return refused
    filters = mel.filters()
    _finite(filters, (config["mels"], config["n_fft"] // 2 + 1))
    for samples in (1, 3, int(rng.integers(1, 2000))):
        frames = samples // config["hop"] + 1
        if frames * config["n_fft"] < MOST_WORK:
            y = mel(rng.standard_normal(samples) * 10.0 ** rng.integers(-20, 20))
            _finite(y, (frames, config["mels"]))
    return "worked"


def _run_file(case: Case) -> str:
    data = case["top"] | {name: case[name] for name in ("front", "audio", "text")}
    config, refused = _attempt(lambda: ClapConfig.from_json(data), REFUSALS)
    if refused:
        return refused
    arguments = config.core_arguments(with_text=True)
    model, refused = _attempt(lambda: core.Model(**arguments), REFUSALS)
    if refused:
        return refused
    assert len(model.parameters()) > 10
    filters, refused = _attempt(lambda: mel_filters(config.front), REFUSALS)
    if filters is not None:
        _finite(filters, (config.front.mels, config.front.n_fft // 2 + 1))
    return refused or "worked"


def _run_score(s: Case, context: core.Context, rng: np.random.Generator) -> str:
    x, prompts = rng.standard_normal((3, 5)), rng.standard_normal((7, 5))
    x, prompts = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, prompts))
    s = SCORE | s
    names = ("first", "rule", "scale", "k", "explain", "all")
    found, refused = _attempt(
        lambda: core.combine(context, x, prompts, **{n: s[n] for n in names}), UNTYPED
    )
    for y in found or ():
        assert y is None or np.isfinite(y).all(), y
    _attempt(lambda: core.ranks(context, x, prompts, s["pair"]), UNTYPED)
    _attempt(lambda: core.scores(context, x, prompts, s["k"], s["all"]), UNTYPED)
    _attempt(lambda: core.class_vectors(prompts, s["first"]), UNTYPED)
    return refused or "worked"


def _run_model(case: Case, context: core.Context, rng: np.random.Generator) -> str:
    audio, text = case.get("audio"), case.get("text")
    model, refused = _attempt(
        lambda: core.Model(audio, text, **({"text_width": 0} | case["model"])), UNTYPED
    )
    if refused:
        return refused
    parameters = model.parameters()
    if sum(int(np.prod(shape, dtype=float)) for _, shape, _ in parameters) > MOST_VALUES:
        return "too large to run"
    if (audio and _audio_work(audio) > MOST_WORK) or (text and _text_work(text) > MOST_WORK):
        return "too large to run"
    options = {} if "step" in case else {"pack": True, "dtype": case["call"].get("dtype")}
    _, refused = _attempt(
        lambda: model.bind([_draw(rng, *p) for p in parameters], **options), UNTYPED
    )
    if refused:
        return refused
    if "step" in case:
        return _run_step(case, model, rng)
    if audio:
        return _run_audio(case, model, context, rng)
    return _run_text(case, model, context, rng) if text else "worked"


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], kind: int) -> np.ndarray:
    x = np.asarray(rng.standard_normal(shape), np.float32)
    if name.endswith("running_var"):
        return np.asarray(x**2 + 1)
    return np.asarray(1 + x / 10 if "norm" in name or "bn" in name else x / 4)


def _audio_work(c: Case) -> float:
    if c["kind"] == 1:
        return sum(9.0 * a * b for a, b in zip([1, *c["widths"]], c["widths"], strict=False)) * 800
    if c["kind"] == 2:
        rows = 1 + c["frames"] // c["patch_time"] * (c["mels"] // c["patch_mel"])
        block = c["depth"] * c["width"] * (4 * c["width"] + 2 * c["mlp"] + 2 * rows)
        return float(rows * block + c["channels"] * c["frames"] * c["mels"] * c["width"])
    tokens, width = (c["spec_size"] / c["patch"]) ** 2, c["embed"]
    own = sum(c["depths"]) * width * (12 * c["mlp_ratio"] * width + c["window"] ** 2)
    return float(c["spec_size"] ** 2 * (8 + width) + tokens * own)


def _text_work(c: Case) -> float:
    rows = c["pad_to"] if c["pool"] == 4 else 12  # texts padded to one length
    width = c["width"] + c["heads"] * (c["head_width"] or c["width"] // c["heads"])
    return float(rows * c["layers"] * width * (c["mlp"] + c["width"] + rows) + c["heads"] * rows**2)


def _run_audio(
    case: Case, model: core.Model, context: core.Context, rng: np.random.Generator
) -> str:
    c, call = case["audio"], CALL | case["call"]
    several = c.get("channels", 1)
    views = (4,) if c.get("fusion") else (several,) if several != 1 else ()

    def embed(features: bool) -> np.ndarray:
        shape = (call["clips"], *views, call["frames"], int(c["mels"]))
        mel = rng.standard_normal(shape) * 10 - 40
        return model.audio(
            context, mel, features, np.arange(call["clips"]) % 2 == 0 if c.get("fusion") else None
        )

    small = all(isinstance(call[n], int) and call[n] <= 200 for n in ("clips", "frames"))
    if not small or c["mels"] > 512:
        return "too large to run"
    for features in (False, True):
        rows, refused = _attempt(lambda features=features: embed(features), UNTYPED)
        if refused:
            return refused
        _finite(rows, (call["clips"], rows.shape[1] if features else case["model"]["dim"]))
    return "worked"


def _run_text(
    case: Case, model: core.Model, context: core.Context, rng: np.random.Generator
) -> str:
    lengths = case["call"].get("lengths", [1])
    first, refused = _attempt(lambda: np.cumsum([0, *lengths]), UNTYPED)
    if refused or first.dtype.kind != "i" or not 0 <= first[-1] < 500:
        first = np.array([0, 2])
    ids = rng.integers(0, min(case["text"]["vocab"], 1 << 20), first[-1])
    for features in (False, True):
        rows, refused = _attempt(
            lambda features=features: model.text(context, ids, first, features), REFUSALS
        )
        if refused:
            return refused
        width = case["text"]["width"] if features else case["model"]["dim"]
        _finite(rows, (len(first) - 1, width))
    return "worked"


def _run_step(case: Case, model: core.Model, rng: np.random.Generator) -> str:
    mels = int(case["audio"]["mels"])
    trainer, refused = _attempt(lambda: core.Trainer(model, 1), REFUSALS)
    if refused:
        return refused
    c = case["audio"]
    several = (c["channels"],) if c.get("channels", 1) != 1 else ()
    if c["kind"] == 2:  # one patch in time at least
        frames = int(min(max(50, c["patch_time"]), c["frames"]))
    elif c["kind"] == 1:
        frames = 100
    else:
        frames = int(min(50, c["spec_size"] ** 2 // mels))
    longer = None
    if c.get("fusion"):
        several, longer = (4,), np.array([True, False, True])
    mel = rng.standard_normal((3, *several, frames, mels)) * 10 - 40
    text: Any = rng.standard_normal((3, int(case["model"]["text_width"])))
    if case.get("text"):
        text = rng.integers(0, min(case["text"]["vocab"], 1 << 20), 3), np.arange(4)
    outcome = ""
    for options in (STEP | case["step"], STEP):
        given = options | {"longer": longer}
        found, refused = _attempt(lambda o=given: trainer.step(mel, text, **o), UNTYPED)
        if options is STEP and refused != "MemoryError":  # oneDNN remembers what had no memory
            # After a refusal the same object works, unless the first lr was wild.
            assert not refused or not outcome, (refused, outcome)
        outcome = outcome or refused
        assert not found or np.isfinite(list(found.values())).all(), found
        assert all(np.isfinite(x).all() for x in trainer.buffers(0)), options
    return outcome or "worked"
