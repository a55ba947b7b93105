"""Configurations: the same checks in Python as from files, over every field of every class."""

import copy
import dataclasses
import pickle
import typing

import numpy as np
import pytest

from reclap.audio import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import AdapterConfig
from reclap.config import ClapConfig, Cnn14Config, HtsatConfig, TextConfig, VitConfig
from reclap.errors import FormatError
from reclap.io.settings import Settings, from_mapping
from reclap.llm.collect import Sampling
from reclap.llm.describe import Plan
from reclap.llm.rewrite import RewritePlan
from reclap.training import recipe
from reclap.training.augment import Augment
from reclap.training.data import Data

VALID = (
    AudioConfig(),
    HtsatConfig(),
    Cnn14Config(),
    VitConfig(),
    TextConfig(),
    ClapConfig(),
    Data("m.jsonl"),
    Augment(),
    recipe.ModelPart(),
    recipe.Optim(),
    recipe.Run(1),
    recipe.Eval(),
    recipe.Train(),
    recipe.Loss(),
    recipe.Lora(),
    AdapterConfig("0" * 64, "base", 8, 16.0, ()),
    recipe.Recipe(Data("m.jsonl"), recipe.Run(1)),
    Sampling(),
    Plan(),
    RewritePlan(),
)
FIELDS = [
    pytest.param(config, field.name, id=f"{type(config).__name__}.{field.name}")
    for config in VALID
    for field in dataclasses.fields(config)
]


def test_every_configuration_is_listed():
    def below(cls):
        return {cls, *(found for sub in cls.__subclasses__() for found in below(sub))}

    assert below(Settings) - {Settings} == set(map(type, VALID))


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_refuses_another_type_in_python_and_from_files(config, name):
    value = object()
    with pytest.raises(ValueError, match=rf"^{type(config).__name__}\.{name}: expected .*, got <"):
        dataclasses.replace(config, **{name: value})
    keys = {f.name: f.metadata.get("key", f.name) for f in dataclasses.fields(config)}
    values = {keys[n]: getattr(config, n) for n in keys} | {keys[name]: value}
    with pytest.raises(FormatError, match=rf"^here\.{keys[name]}: expected .*, got <"):
        from_mapping(type(config), values, "here")


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_no_number_may_be_nan_infinite_or_huge_below_zero(config, name):
    value = getattr(config, name)
    many = isinstance(value, tuple)
    for bad in (float("nan"), float("inf"), -float("inf"), -(2**80)):
        if (type(config), name) == (Sampling, "seed") and isinstance(bad, int):
            continue  # any integer
        with pytest.raises(ValueError, match=rf"\.{name}: expected"):
            dataclasses.replace(config, **{name: (bad, bad) if many else bad})


def choices_of(config, name):
    kind = typing.get_type_hints(type(config), include_extras=True)[name]
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


@pytest.mark.parametrize(("config", "name"), [f for f in FIELDS if choices_of(*f.values)])
def test_every_choice_is_the_literal_of_its_type(config, name):
    *choices, last = choices_of(config, name)
    for wrong in (last.upper(), f"{last} ", "", choices):
        if wrong in choices:  # as "" is of some
            continue
        with pytest.raises(ValueError, match=f"expected one of {', '.join([*choices, last])}, got"):
            dataclasses.replace(config, **{name: wrong})


@pytest.mark.parametrize("config", VALID, ids=lambda c: type(c).__name__)
def test_copies_are_equal_and_share_nothing_mutable(config):
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):  # noqa: S301
        assert copied == config
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            assert not isinstance(value, dict) or getattr(copied, field.name) is not value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AudioConfig(mel_scale="HTK"), "expected one of slaney, htk, got 'HTK'"),
        (lambda: AudioConfig(padding="zeros"), "one of repeatpad, repeat, pad, got 'zeros'"),
        (lambda: AudioConfig(window_hop=1e-12), r"window_hop: expected float from 0\.001 to 1"),
        (lambda: AudioConfig(n_fft=1000), "n_fft is 1000, expected a power of two"),
        (lambda: AudioConfig(fmin=14000), r"fmin is 14000\.0, expected below fmax, 14000\.0"),
        (lambda: AudioConfig(rate=True), "rate: expected int from 1000 to 4194304, got True"),
        (lambda: AudioConfig(rate=10**5000), "rate: expected .*, got a int too large to show"),
        (lambda: AudioConfig(rate="1" * 999), r"rate: expected .*, got '1{199}\.\.\.$"),
        (lambda: TextConfig(pool="max"), "expected one of mean, first, .*, got 'max'"),
        (lambda: TextConfig(layers=10**7), "layers: expected int from 1 to 256, got 10000000"),
        (lambda: TextConfig(max_tokens=513), "max_tokens is 513, expected 3 to 512"),
        (lambda: HtsatConfig(depths=(1, 1)), "heads has 4 stages, depths has 2"),
        (lambda: HtsatConfig(depths=(), heads=()), "expected a list of int .*, 1 to 8 of them"),
        (lambda: ClapConfig(audio=HtsatConfig(mels=32)), "front.mels is 64, audio.mels is 32"),
        (lambda: ClapConfig(front={"mels": 64}), "front: expected AudioConfig, got {'mels': 64}"),
        (lambda: ClapConfig(audio=AudioConfig()), "audio: expected HtsatConfig"),
        (lambda: ClapConfig(template="sound"), "it must contain {label}"),
        (lambda: Augment(noise=7), "noise: expected float from 0 to 1, got 7"),
        (lambda: Augment(noise_db=(40.0, 10.0)), r"noise_db is \[40\.0, 10\.0\]"),
        (lambda: Augment(noise_db=(0.0, float("nan"))), "noise_db: expected .*nan"),
        (lambda: recipe.Run(1, seed=2**64), "seed is 18446744073709551616, expected below"),
        (lambda: recipe.ModelPart(front={"hopp": 1}), "front: unknown hopp; known are rate,"),
        (lambda: recipe.ModelPart(audio={"mel": 1}), "audio: unknown mel; known are mels,"),
    ],
)
def test_what_cannot_work_is_refused_in_python(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_and_lists_become_those_of_python():
    config = AudioConfig(rate=np.int64(16000), fmax=np.float32(8000), fmin=0, level_db=None)
    assert (type(config.rate), type(config.fmax), type(config.fmin)) == (int, float, float)
    assert HtsatConfig(depths=[2, 2, 6, 2]) == HtsatConfig()
    assert hash(HtsatConfig(depths=[2, 2, 6, 2])) == hash(HtsatConfig())


def test_the_greatest_seed_draws():
    from reclap.training.rng import ITEM, generator

    run = recipe.Run(1, seed=2**64 - 1)
    generator(run.seed, ITEM, 0).random()


def test_deeply_nested_recipes_are_format_errors(tmp_path):
    deep = "[" * 20_000 + "]" * 20_000
    path = tmp_path / "deep.toml"
    path.write_text(f"[data]\nmanifest = {deep}\n")
    with pytest.raises(FormatError, match=r"deep\.toml: "):
        recipe.load(path)
    path.write_text('[data]\nmanifest = "m.jsonl"\n[run]\nsteps = 1\n')
    with pytest.raises(FormatError, match=r"model\.front: "):
        recipe.load(path, [f"model.front={deep}"])


# ---- Digests ---------------------------------------------------------------------------------

NO_EMBEDDING = {  # settings of training, and names
    "HtsatConfig": {
        "drop_path", "dropout", "bn_momentum", "time_stripes", "time_width", "freq_stripes",
        "freq_width",
    },
    "ClapConfig": {"name", "template", "logit_bias"},
    "Cnn14Config": {"dropout", "fc_dropout", "bn_momentum"},
    "VitConfig": {"drop_path", "dropout"},
}  # fmt: skip
PARTS = [
    pytest.param(part, kind, field.name, id=f"{kind.__name__}.{field.name}")
    for part, kind in (
        ("front", AudioConfig),
        ("audio", HtsatConfig),
        ("audio", Cnn14Config),
        ("audio", VitConfig),
        ("text", TextConfig),
        (None, ClapConfig),
    )
    for field in dataclasses.fields(kind)
    if not dataclasses.is_dataclass(getattr(kind(), field.name))
]


def other(value):
    """Return another value of the same type; whether it can work does not matter here."""
    if value is None or isinstance(value, int | float):
        return not value if isinstance(value, bool) else (value or 0) + 1
    return (*value, 1) if isinstance(value, tuple) else f"{value}x"


def with_setting(config, part, name, value):
    """Set one field of a configuration, past its checks."""
    config = copy.deepcopy(config)
    object.__setattr__(getattr(config, part) if part else config, name, value)
    return config


@pytest.mark.parametrize(("part", "kind", "name"), PARTS)
def test_what_changes_an_embedding_changes_the_digest_and_nothing_else_does(part, kind, name):
    plain = ClapConfig(audio=kind()) if part == "audio" else ClapConfig()
    # Next to another setting, so that the part is no default as a whole.
    beside = "eps" if part in ("audio", "text") else "rate" if part else "dim"
    if name == beside:
        beside = "mels" if part != "text" else "width"
    if part:
        plain = with_setting(plain, part, beside, other(getattr(getattr(plain, part), beside)))
    was = getattr(getattr(plain, part) if part else plain, name)
    changed = with_setting(plain, part, name, other(was))
    equal = model_folder.digest(changed, []) == model_folder.digest(plain, [])
    assert equal == (name in NO_EMBEDDING.get(kind.__name__, ()))
