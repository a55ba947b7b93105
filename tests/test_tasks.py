"""Training, describing and rewriting as single calls of the package."""

import json

import pytest
from folders import CONFIG
from llm_server import Server, answer_well
from needs import needs
from training import read_run, settings, to_toml, write_set
from training import recipe as made

import reclap
from reclap import llm
from reclap.llm.cache import Cache
from reclap.llm.server import Server as Client

SHORT = {"steps": 2, "save_every": 2, "threads": 1}


@pytest.fixture
def manifest(tmp_path):
    return write_set(tmp_path / "set")


def test_a_recipe_is_trained_from_its_path_and_as_an_object(manifest, small_folder, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(settings(manifest, small_folder, run=SHORT | {"steps": 9})))
    result = reclap.train(path, str(tmp_path / "a"), settings=["run.steps=2"])
    assert (result.step, result.interrupted) == (2, False)
    assert reclap.load(result.folder).embed_text(["rain"]).shape == (1, CONFIG["dim"])
    reclap.train(made(manifest, small_folder, run=SHORT), tmp_path / "b")
    assert read_run(tmp_path / "a") == read_run(tmp_path / "b")
    assert reclap.train(path, tmp_path / "a", settings=["run.steps=4"], resume=True).step == 4


def test_one_text_is_no_list_of_settings(tmp_path):
    with pytest.raises(TypeError, match=r"^settings: expected a list .* got 'run\.steps=2'"):
        reclap.train("r.toml", tmp_path / "a", settings="run.steps=2")


def test_settings_are_for_files(manifest, small_folder, tmp_path):
    recipe = made(manifest, small_folder, run=SHORT)
    with pytest.raises(ValueError, match=r"^settings: expected none"):
        reclap.train(recipe, tmp_path / "a", settings=["run.steps=2"])
    with pytest.raises(FileExistsError):
        reclap.train(recipe, manifest.parent)


@pytest.fixture
def session(tmp_path):
    needs("openai", "llm")
    with (
        Server(answer_well) as server,
        llm.Session(
            Client(server.url, "m", timeout=5), Cache(tmp_path / "c.sqlite"), backoff=0.001
        ) as opened,
    ):
        yield opened


def test_labels_are_described_from_a_file_and_from_a_list(session, tmp_path):
    (tmp_path / "labels.txt").write_text("dog\ncrane: bird\n")
    plan = llm.Plan(descriptions=1, prompts=2)
    bank, report = reclap.describe(tmp_path / "labels.txt", session, plan, name="two", sense=None)
    assert (bank.name, bank.labels, bank.entries["crane"].definition) == (
        "two",
        ("dog", "crane"),
        "bird",
    )
    assert (report.wanted, report.incomplete) == (6, 0)
    labels = {"dog": "", "crane": "bird"}
    again, _ = reclap.describe(labels, session, plan, name="two", sense=None)  # it is still open
    assert again.entries == bank.entries


def test_captions_are_rewritten(session, tmp_path):
    (tmp_path / "in.csv").write_text("path,caption\na.wav,a dog barks at a gate\n")
    plan = llm.RewritePlan(1)
    report = reclap.rewrite(tmp_path / "in.csv", str(tmp_path / "out.jsonl"), session, plan)
    assert report.incomplete == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert len(row["rewrites"]) == 1
    with pytest.raises(FileExistsError):
        reclap.rewrite(tmp_path / "in.csv", tmp_path / "out.jsonl", session, plan)
    reclap.rewrite(tmp_path / "in.csv", tmp_path / "out.jsonl", session, plan, force=True)


def test_a_server_is_asked_by_its_address(tmp_path, monkeypatch):
    needs("openai", "llm")
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path / "cache"))
    with Server(answer_well) as server:
        plan = llm.Plan(descriptions=1, prompts=1)
        bank, _ = reclap.describe(["dog"], "m", plan, base_url=server.url)
        assert (bank.made["model"], len(server.requests) > 1) == ("m", True)
        with pytest.raises(reclap.ReclapError, match="name one of them"):
            reclap.describe(["dog"], base_url=server.url)


def test_a_session_has_its_own_server(session, tmp_path):
    with pytest.raises(ValueError, match=r"^base_url: expected none beside a session"):
        reclap.describe(["dog"], session, base_url="http://127.0.0.1:1/v1")
