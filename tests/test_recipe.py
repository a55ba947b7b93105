"""Recipes: what a file may say, and what is refused by name."""

import dataclasses
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
import training

from reclap.checkpoints import model_folder
from reclap.errors import FormatError
from reclap.training import recipe
from reclap.training.augment import Augment
from reclap.training.data import Data
from reclap.training.identity import differences, sha256
from reclap.training.recipe import Loss, Optim, Recipe, Run


@pytest.fixture
def toml(tmp_path):
    sections = training.settings(tmp_path / "m.jsonl", tmp_path / "text")
    sections["data"]["manifest"] = "lists/m.jsonl"
    path = tmp_path / "recipe.toml"
    path.write_text(training.to_toml(sections))
    return path


def test_file_gives_what_it_says(toml):
    plan = recipe.load(toml)
    assert plan.optim.warmup == 3
    assert plan.model.front["hop"] == 160
    assert plan.augment.noise_db == (10.0, 40.0)


def test_saved_recipe_is_read_again(toml, tmp_path):
    plan = recipe.load(toml, ["model.from=mini", "data.where.fold=[1, 2]", "eval.prompts.x=['a']"])
    plan.save(tmp_path / "recipe.json")
    assert recipe.load(tmp_path / "recipe.json") == plan
    (tmp_path / "recipe.json").write_text("[1]")
    with pytest.raises(FormatError, match=r"recipe\.json: expected a JSON object"):
        recipe.load(tmp_path / "recipe.json")


def test_relative_paths_start_at_the_recipe(toml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    assert recipe.load(toml).data.manifest == str(tmp_path / "lists" / "m.jsonl")


def test_relative_paths_of_overrides_start_at_the_working_directory(toml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = recipe.load(toml, ["data.root=sounds", 'data.manifest="other.csv"'])
    assert plan.data.root == str(tmp_path / "sounds")
    assert plan.data.manifest == str(tmp_path / "other.csv")


def test_model_folder_beside_the_recipe_is_found(toml, tmp_path):
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").touch()
    toml.write_text(toml.read_text().replace(str(tmp_path / "text"), "tower"))
    assert recipe.load(toml).model.text == str(tmp_path / "tower")


@pytest.mark.parametrize("key", ["from", "text", "audio_from"])
def test_folder_that_is_no_model_leaves_a_bundled_name_alone(toml, tmp_path, key):
    (tmp_path / "mini").mkdir()
    text = toml.read_text().replace(f'text = "{tmp_path}/text"', f'{key} = "mini"')
    toml.write_text(text)
    assert recipe.load(toml).to_json()["model"][key] == "mini"
    (tmp_path / "mini" / "config.json").touch()
    assert recipe.load(toml).to_json()["model"][key] == str(tmp_path / "mini")
    shutil.rmtree(tmp_path / "mini")
    (tmp_path / "mini").touch()
    is_path = recipe.load(toml).to_json()["model"][key] != "mini"
    assert is_path == (key != "text")


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("optim.lr=2", lambda r: r.optim.lr == 2.0),
        ("optim.lr = 2e-3", lambda r: r.optim.lr == 0.002),
        ("model.audio.depths=[2, 1]", lambda r: r.model.audio["depths"] == [2, 1]),
        ("data.where.fold=[1,2]", lambda r: r.data.where == {"fold": [1, 2]}),
        ("augment.shift=false", lambda r: r.augment.shift is False),
        ("model.name=bare word", lambda r: r.model.name == "bare word"),
        ("model.from=mini", lambda r: r.model.source == "mini"),
        ("model.init=trunc_normal", lambda r: r.model.init == "trunc_normal"),
    ],
)
def test_override_replaces_a_setting(toml, setting, found):
    assert found(recipe.load(toml, [setting]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.rate=1", r"optim: unknown rate; known are lr, warmup"),
        ("model.source=mini", r"model: unknown source; known are from, text"),
        ("model.from=3", r"model\.from: expected str, got 3"),
        ("optimizer.lr=1", r"unknown optimizer; known are model, data"),
        ("optim.lr=fast", r"optim\.lr: expected float of at least 0, got 'fast'"),
        ("run.steps=1.5", r"run\.steps: expected int of at least 1, got 1\.5"),
        ("run.steps=0", r"run\.steps: expected int of at least 1, got 0"),
        ("optim.ema=1.0", r"optim\.ema: expected float from 0 to below 1, got 1\.0"),
        ("optim.lr=-1.0", r"optim\.lr: expected float of at least 0, got -1\.0"),
        ("optim.algorithm=sgd", r"optim\.algorithm: expected one of adamw, adam, got 'sgd'"),
        ("optim.schedule=step", r"optim\.schedule: expected one of cosine, linear, constant"),
        ("optim.lr=inf", r"optim\.lr: expected float of at least 0, got inf"),
        ("data.original=1.2", r"data\.original: expected float from 0 to 1, got 1\.2"),
        ("data.mixtures=99", r"data: mixtures is 99, of a batch of 5"),
        ("data.errors=ignore", r"data\.errors: expected one of raise, skip, got 'ignore'"),
        ("data.threads=0", r"data\.threads: expected int of at least 1, got 0"),
        ("augment.same=2.0", r"augment\.same: expected float from 0 to 1, got 2\.0"),
        (
            "augment.speeds=[0.0]",
            r"augment\.speeds: expected a list of float from 0\.25 to 4, got \[0\.0\]",
        ),
        (
            "augment.noise_db=[1.0]",
            r"augment\.noise_db: .*, 2 to 2 of them, got \[1\.0\]",
        ),
        ("augment.band=2.0", r"augment\.band: expected float from 0 to 1, got 2\.0"),
        ("augment.bands=[]", r"augment\.bands: .*, 1 to 1000 of them, got \[\]"),
        ("augment.bands=[[4000]]", r"augment\.bands: .*, got \[\[4000\]\]"),
        ("augment.bands=[[-1, 4000]]", r"augment\.bands: .*, got \[\[-1, 4000\]\]"),
        ("augment.bands=[[9, 9]]", r"augment: bands has \[9\.0, 9\.0\], expected \[lower, upper\]"),
        (
            "model.init=zeros",
            r"model\.init: expected one of xavier_uniform, trunc_normal, got 'zeros'",
        ),
        ('model.audio.kind="cnn14"', r"model: audio: unknown depths, .* known are mels, widths"),
        ("eval.best=f1", r"eval\.best: expected one of , accuracy, loss, retrieval, got 'f1'"),
        ("eval.best=loss", r"eval: best is 'loss': needs every"),
        ("eval.patience=3", r"eval: patience: needs best"),
        ("eval.prompts.dog=[]", r"eval: prompts\.dog: expected a text or a list"),
        ('eval.prompts.dog=""', r"eval: prompts\.dog: expected texts that are not empty"),
        ("run.steps.more=1", r"run\.steps\.more: run\.steps is not a table"),
        ("lr=1", r"'lr=1': expected section\.key=value"),
        ("optim.lr", r"'optim\.lr': expected section\.key=value"),
    ],
)
def test_bad_setting_is_named(toml, setting, message):
    with pytest.raises(FormatError, match=message):
        recipe.load(toml, [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["eval.label="], r"eval: label: empty, and captions is false"),
        (["eval.label=", "eval.captions=true", "eval.prompts.dog=A"], "prompts: needs label"),
        (["eval.label=", "eval.captions=true", "eval.best=accuracy"], "'accuracy': needs label"),
        (["eval.best=retrieval"], r"best is 'retrieval': needs captions = true"),
    ],
)
def test_settings_of_evaluation_that_contradict_are_named(toml, settings, message):
    with pytest.raises(FormatError, match=message):
        recipe.load(toml, ["eval.every=1", *settings])


def test_grouping_needs_a_column(toml):
    with pytest.raises(FormatError, match="per_group: needs group"):
        recipe.load(toml, ["data.per_group=1", "data.group="])


def test_missing_key_is_named():
    with pytest.raises(FormatError, match="data: manifest missing"):
        Recipe.from_mapping({"run": {"steps": 1}})


@pytest.mark.parametrize("content", [b"[run\n", b"\xff", b"a = 1\na = 2\n"])
def test_bad_toml_is_named(tmp_path, content):
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"r\.toml: "):
        recipe.load(path)


def test_what_is_no_recipe_is_told_what_was_expected(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "a.wav", "caption": "A"}\n')
    with pytest.raises(FormatError, match=r"m\.jsonl: expected a TOML recipe: .*line 1"):
        recipe.load(path)


def test_one_text_is_no_list_of_overrides(toml):
    with pytest.raises(TypeError, match=r"^overrides: expected a list .* got 'run\.steps=2'"):
        recipe.load(toml, "run.steps=2")


def test_towers_of_two_kinds_differ_in_kind_first_and_in_what_both_have():
    plain = {"run": {"seed": 0}, "model": {"audio": {}}}
    named = {"run": {"seed": 0}, "model": {"audio": {"kind": "htsat"}}}
    other = {"run": {"seed": 1}, "model": {"audio": {"kind": "vit", "width": 48}}}
    assert recipe.changes(plain, named) == []
    for old, new in ((plain, other), (other, plain), (named, other)):
        first, *found, last = recipe.changes(old, new)
        assert first.startswith("model.audio.kind: ")
        assert last.startswith("run.seed: ")
        names = {x.removeprefix("model.audio.").split(":")[0] for x in found}
        both = recipe.defaults("vit")["model"]["audio"].keys() & recipe.defaults()["model"]["audio"]
        assert names <= both - {"kind"}
        assert not any("None" in x for x in found)


def test_absent_recipe_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        recipe.load(tmp_path / "none.toml")


def test_differences_name_keys_with_both_values():
    old = {"optim": {"lr": 1.0, "eps": 1.0}, "run": {"seed": 0}}
    new = {"optim": {"lr": 2.0, "eps": 1.0}, "run": {"seed": 0, "more": 1}}
    assert differences(old, new) == ["optim.lr: 1.0, now 2.0", "run.more: None, now 1"]


def test_digest_of_files_tells_where_one_ends(tmp_path):
    """And reads them piece by piece."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"12" + bytes(3 << 20))
    b.write_bytes(b"3")
    first = sha256(a, b)
    a.write_bytes(b"12" + bytes((3 << 20) - 1))
    b.write_bytes(b"\0" + b"3")
    assert sha256(a, b) != first
    tracemalloc.start()
    sha256(a, b)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_documented_defaults_are_those_of_the_code():
    """Tables of docs/training.md: keys, and their defaults in JSON."""
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    found = {}
    for section, cls in (("data", Data), ("augment", Augment), ("optim", Optim), ("loss", Loss)):
        table = text.split(f"### `[{section}]`")[1].split("\n### ")[0]
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for keys, values in re.findall(r"^\| (`\w.*?) \| (.+?) \|", table, re.MULTILINE):
            names = re.findall(r"`(\w+)`", keys)
            given = json.loads(f"[{values.replace('-,', 'null,')}]")
            assert len(names) == len(given), keys
            for name, value in zip(names, given, strict=True):
                field = fields[name]
                default = (
                    field.default_factory()
                    if field.default is dataclasses.MISSING is not field.default_factory
                    else None
                    if field.default is dataclasses.MISSING
                    else field.default
                )
                assert json.loads(json.dumps(default)) == value, name
                found[section, name] = value
        assert {name for s, name in found if s == section} == set(fields)
    run = text.split("### `[run]`")[1].split("\n### ")[0]
    defaults = dataclasses.asdict(Run(steps=1))
    told = {n: json.loads(v) for n, v in re.findall(r"`(\w+)`\s`?(\d+|false|\"\w+\")", run)}
    assert told | {"steps": 1} == defaults


# ---- A whole model to go on with -------------------------------------------------------------


@pytest.fixture
def source(small_folder):
    return model_folder.read_config(small_folder)


def part(**given):
    return Recipe.from_mapping(
        {"data": {"manifest": "m.csv"}, "run": {"steps": 1}, "model": {"from": "small"} | given}
    ).model


def test_model_to_go_on_with_gives_all_that_is_not_set(source):
    model = part(front={"window_hop": 0.5}, audio={"drop_path": 0.0}, name="mine").completed(source)
    config = model.config(source.text)
    assert config.front == dataclasses.replace(source.front, window_hop=0.5)
    assert config.audio == dataclasses.replace(source.audio, drop_path=0.0)
    assert (config.dim, config.template, config.name) == (source.dim, source.template, "mine")
    assert model.text == "small"


def test_without_it_defaults_are_as_before():
    plain = Recipe.from_mapping({"data": {"manifest": "m.csv"}, "run": {"steps": 1}}).model
    model = plain.completed()
    assert (model.text, model.name, model.dim, model.audio_head) == ("mini", "clap", 512, "mlp")
    assert model.template == "This is a sound of {label}."


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate", 8000), ("hop", 80), ("fmax", 7000.0), ("mel_scale", "htk"), ("bank_rate", 8000)],
)
def test_front_end_that_a_tower_was_not_trained_with_is_refused(source, name, value):
    with pytest.raises(
        FormatError, match=rf"small was trained with .*: {name} was .*, now '?{value}"
    ):
        part(front={name: value}).completed(source)


def test_whole_model_and_another_audio_tower_exclude_each_other():
    with pytest.raises(FormatError, match="audio_from: from gives the audio tower"):
        part(audio_from="b.ckpt")
