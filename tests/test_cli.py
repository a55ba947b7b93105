"""The command line, through `main` as a person's shell would call it."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import tone, write_wav
from needs import needs

import reclap
from reclap import cli
from reclap.audio import inputs
from reclap.cli import main
from reclap.prompts.strategies import make
from reclap.runtime import progress


@pytest.fixture
def run(small_folder, capsys):
    """Return a function that runs a command with the small model: status, output, errors."""

    def call(command, *args, model=True):
        chosen = ["--model", str(small_folder)] if model else []
        status = main([command, *map(str, args), *chosen])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def _fails(result, *texts):
    """Check for status 2, nothing on output, and one line on standard error."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("reclap: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


# ---- classify ------------------------------------------------------------------------------------


def test_classify_prints_one_json_object_a_line(run, small, tones):
    status, out, err = run("classify", *tones, "--labels", "rain,dog,clock", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines == [r.to_json() for r in small.classify(tones, ["rain", "dog", "clock"])]


def test_classify_prints_a_table(run, tones):
    status, out, _ = run("classify", *tones[:2], "--labels", "rain,a church bell", "--top-k", 2)
    head, *rows = out.splitlines()
    assert status == 0
    assert head.split() == ["file", "label", "probability", "cosine"]
    assert len(rows) == 4
    assert [row.startswith(" ") for row in rows] == [False, True, False, True]
    assert len({len(row) for row in rows}) == 1  # aligned
    assert float(rows[0].split()[-2]) >= float(rows[1].split()[-2])


def test_classify_top_k_limits_the_labels(run, tones):
    _, out, _ = run("classify", tones[0], "--labels", "a,b,c", "--top-k", 1, "--json")
    assert len(json.loads(out)["labels"]) == 1


BANK = reclap.PromptBank.from_prompts(
    {"rain": ["soft rain", "hard rain", "a hiss"], "dog": ["a dog", "a bark"]}, "two"
)


@pytest.mark.parametrize("rule", ["mean_embedding", "max"])
def test_classify_draws_and_combines_prompts_of_a_bank(run, small, tones, tmp_path, rule):
    BANK.save(tmp_path / "bank.json")
    options = ("--prompts", tmp_path / "bank.json", "--n-prompts", 2, "--seed", 5)
    status, out, _ = run("classify", *tones, *options, "--combine", rule, "--json")
    want = small.classify(tones, BANK, n_prompts=2, seed=5, combine=rule)
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [r.to_json() for r in want]


def test_classify_shows_which_prompt_decided(run, small, tones, tmp_path):
    BANK.save(tmp_path / "bank.json")
    options = ("--prompts", tmp_path / "bank.json", "--combine", "max", "--explain")
    [result] = small.classify(tones[0], BANK, combine="max", explain=True)
    _, out, _ = run("classify", tones[0], *options)
    head, *rows = out.splitlines()
    assert head.split() == ["file", "label", "probability", "max", "prompt"]
    assert [row.split("  ")[-1].strip() for row in rows] == [
        result.attribution.of(label)[0].prompt for label in result.top
    ]
    _, out, _ = run("classify", tones[0], *options, "--json")
    prompts = json.loads(out)["labels"][0]["prompts"]
    assert [p["prompt"] for p in prompts] == [s.prompt for s in result.attribution.of(result.label)]
    assert prompts[0]["weight"] == 1


def test_explained_errors_have_their_row(run, tones, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    options = ("--labels", "a,b", "--explain", "--errors", "skip")
    status, out, _ = run("classify", tones[0], tmp_path / "bad.wav", *options)
    assert status == 1
    assert "error: " in out


@pytest.mark.parametrize("name", ["label", "attributes"])
def test_labels_become_prompts_by_a_strategy(run, small, tones, name):
    _, out, _ = run("classify", tones[0], "--labels", "rain,dog", "--strategy", name, "--json")
    [want] = small.classify(tones[0], make(name, ["rain", "dog"]))
    assert json.loads(out) == want.to_json()


def test_the_template_strategy_takes_the_template(run, small, tones):
    options = ("--labels", "rain,dog", "--template", "hear {label}", "--json")
    _, plain, _ = run("classify", tones[0], *options)
    _, made, _ = run("classify", tones[0], *options, "--strategy", "template")
    assert plain == made


def test_timeline_draws_and_combines_prompts(run, small, tones, tmp_path):
    BANK.save(tmp_path / "bank.json")
    options = ("--prompts", tmp_path / "bank.json", "--n-prompts", 1, "--combine", "logsumexp")
    _, out, _ = run("timeline", tones[0], *options, "--json", "--no-cache")
    want = small.timeline(tones[0], BANK, n_prompts=1, combine="logsumexp")
    assert [json.loads(line) for line in out.splitlines()] == want.to_json()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--prompts", "esc5000"], "no prompt bank named or at 'esc5000'"),
        (["--prompts", "{tmp}/new.json"], 'new.json: expected "format": "reclap-prompts-1"'),
        (["--prompts", "{tmp}/bank.json", "--n-prompts", 3], "'dog' has 2"),
        (["--labels", "a", "--strategy", "best"], "strategy is 'best', expected one of template"),
        (["--labels", "a", "--strategy", "label+description"], "no description of 'a'"),
    ],
)
def test_classify_refuses_impossible_prompts(run, tones, tmp_path, args, text):
    BANK.save(tmp_path / "bank.json")
    (tmp_path / "new.json").write_text('{"format": "reclap-prompts-9"}')
    _fails(run("classify", tones[0], *(str(a).replace("{tmp}", str(tmp_path)) for a in args)), text)


def test_classify_takes_labels_from_several_places(run, tones, tmp_path):
    (tmp_path / "labels.txt").write_text("\ufeffrain\n\n a church bell \n", "utf-8")
    (tmp_path / "bank.json").write_text('{"rain": ["soft rain", "hard rain"], "dog": ["a dog"]}')
    ways = {
        ("--labels", " rain , dog ", "--labels", "clock"): {"rain", "dog", "clock"},
        ("--labels-file", tmp_path / "labels.txt"): {"rain", "a church bell"},
        ("--prompts", tmp_path / "bank.json"): {"rain", "dog"},
    }
    for way, want in ways.items():
        status, out, _ = run("classify", tones[0], *way, "--json")
        assert status == 0
        assert {entry["label"] for entry in json.loads(out)["labels"]} == want


def test_classify_template_changes_the_scores(run, tones):
    plain = run("classify", tones[0], "--labels", "a,b", "--json")
    other = run("classify", tones[0], "--labels", "a,b", "--template", "zzz {label}", "--json")
    assert plain[1] != other[1]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--labels", "rain,,dog"], "--labels: label 2 is empty"),
        (["--labels", "rain,"], "--labels: label 2 is empty"),
        (["--labels", "rain, dog", "--labels", "dog"], "'dog' more than once"),
        (["--labels-file", "{tmp}/none.txt"], "none.txt: No such file"),
        (["--labels-file", "{tmp}/empty.txt"], "empty.txt: no label"),
        (["--prompts", "{tmp}/empty.txt"], "empty.txt: "),
        (["--prompts", "{tmp}/list.json"], "list.json: expected"),
        (
            ["--prompts", "{tmp}/number.json"],
            "number.json: labels['a'][0]: expected a string",
        ),
        (["--prompts", "{tmp}/twice.json"], "twice.json: 'a' more than once"),
        (["--labels", "a,b", "--template", "nothing"], "must contain {label}"),
    ],
)
def test_classify_refuses_impossible_labels(run, tones, tmp_path, args, text):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "list.json").write_text('["a"]')
    (tmp_path / "number.json").write_text('{"a": [3]}')
    (tmp_path / "twice.json").write_text('{"a": ["b"], "a": ["c"]}')
    _fails(run("classify", tones[0], *(a.replace("{tmp}", str(tmp_path)) for a in args)), text)


def test_classify_stops_at_a_bad_file(run, tones):
    _fails(run("classify", tones[0], "none.wav", "--labels", "a"), "none.wav: No such file")


@pytest.mark.parametrize(
    "args",
    [
        ("classify", "{url}", "--labels", "a"),
        ("timeline", "{url}", "--labels", "a"),
        ("embed", "{url}", "-o", "{tmp}/x.npz"),
    ],
)
def test_a_url_is_called_one(run, tmp_path, args):
    url = "https://example.com/a.wav"
    result = run(*(part.format(url=url, tmp=tmp_path) for part in args))
    _fails(result, f"{url}: a URL: download the sound")


def test_classify_skips_a_bad_file_and_says_so(run, tones, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    files = [tones[0], tmp_path / "bad.wav", "none.wav", tones[1]]
    status, out, _ = run("classify", *files, "--labels", "a,b", "--errors", "skip", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [line["file"] for line in lines] == [str(file) for file in files]
    assert ["error" in line for line in lines] == [False, True, True, False]
    status, out, _ = run("classify", *files, "--labels", "a,b", "--errors", "skip")
    assert status == 1
    assert "none.wav" in out
    assert "error: No such file or directory" in out


def test_folder_needs_recursive(run, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_wav(tmp_path / "b.wav", tone(300))
    write_wav(tmp_path / "deep" / "er" / "a.WAV", tone(400))
    (tmp_path / "notes.txt").write_text("no sound")
    _fails(run("classify", tmp_path, "--labels", "a"), "is a folder", "/*.wav", "--recursive")
    status, out, _ = run("classify", tmp_path, "--labels", "a", "--recursive", "--json")
    assert status == 0
    assert [Path(json.loads(line)["file"]).name for line in out.splitlines()] == ["b.wav", "a.WAV"]


def test_folder_that_cannot_be_listed_is_named(run, tmp_path, monkeypatch):
    for name in ("deep", "good", ".hidden"):
        (tmp_path / name).mkdir()
        write_wav(tmp_path / name / "a.wav", tone(300))
    locked, plain = {str(tmp_path / "deep"), str(tmp_path / ".hidden")}, os.scandir

    def scandir(path):
        if not isinstance(path, int) and os.fspath(path) in locked:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    command = ("classify", tmp_path, "--labels", "a", "--recursive")
    _fails(run(*command), f"{tmp_path / 'deep'}: Permission denied")
    status, out, err = run(*command, "--errors", "skip", "--json")
    assert status == 1
    assert json.loads(out)["file"] == str(tmp_path / "good" / "a.wav")
    assert err == f"reclap: skipped: {tmp_path / 'deep'}: Permission denied\n"
    command = ("embed", tmp_path, "--recursive", "-o", tmp_path / "x.npz")
    _fails(run(*command), "deep: Permission denied")
    assert run(*command, "--errors", "skip")[0] == 1
    assert len(np.load(tmp_path / "x.npz")["items"]) == 1


@pytest.mark.parametrize(
    "command", [["classify", "-", "--labels", "a"], ["embed", "-", "-o", "x.npz"]]
)
def test_closed_input_is_named(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    _fails(run(*command), "standard input is closed")


def test_closed_input_of_a_review_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "bank.json").write_text('{"rain": ["rain falls"]}')
    monkeypatch.setattr(sys, "stdin", None)
    _fails(run("review", tmp_path / "bank.json", "--terminal"), "standard input is closed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hop", "1e-9"], "hop is 1e-09 s, expected at least one sample"),
        (["--window", "1e-5"], "window is 1e-05 s, expected at least one sample"),
        (["--hop", "0.5"], "more than 100 windows"),
    ],
)
def test_absurd_windows_are_refused(run, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(inputs, "MOST_PIECES", 100)
    write_wav(tmp_path / "a.wav", np.tile(tone(300), 100))
    _fails(run("timeline", tmp_path / "a.wav", "--labels", "a", *options), message)


def test_folder_without_sounds(run, tmp_path):
    _fails(run("classify", tmp_path, "--labels", "a", "--recursive"), "no sound file below")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["classify", "a.wav"],
        ["classify", "--labels", "a"],
        ["classify", "a.wav", "--labels", "a", "--labels-file", "b"],
        ["classify", "a.wav", "--labels", "a", "--top-k", "0"],
        ["classify", "a.wav", "--labels", "a", "--threads", "two"],
        ["classify", "a.wav", "--labels", "a", "--errors", "ignore"],
        ["embed", "a.wav"],
        ["train", "a.toml"],
        ["timeline", "a.wav", "--labels", "a", "--window-hop", "0"],
        ["info", "two\nlines", "more"],
        ["embed", "a.wav", "-o", ""],
        ["compare", "", "a.npz"],
        ["train", "a.toml", "--out", ""],
        ["convert", "mini", ""],
    ],
)
def test_arguments_that_make_no_sense(args, capsys):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    command = " ".join(["reclap", *args[:1]]) if args[:1] not in ([], ["nonsense"]) else "reclap"
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{command}: ")
    assert err.endswith(f"({command} --help)\n")


def test_unknown_model(tones, capsys):
    status = main(["classify", str(tones[0]), "--labels", "a", "--model", "maxi"])
    _fails((status, *capsys.readouterr()), "maxi", "bundled: mini")


# ---- timeline ------------------------------------------------------------------------------------


@pytest.fixture
def long_clip(tmp_path):
    return write_wav(tmp_path / "long.wav", np.concatenate([tone(200), tone(900), tone(3000)]))


def test_timeline_prints_one_json_object_a_window(run, small, long_clip):
    status, out, _ = run("timeline", long_clip, "--labels", "a,b", "--hop", 1.0, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(line["start"], line["end"]) for line in lines] == [(0, 1), (1, 2), (2, 3)]
    assert lines == small.timeline(long_clip, ["a", "b"], hop=1.0).to_json()


def test_timeline_prints_a_table(run, long_clip):
    status, out, _ = run("timeline", long_clip, "--labels", "a,b", "--window", 2)
    head, *rows = out.splitlines()
    assert status == 0
    assert head.split() == ["start", "end", "label", "probability", "cosine"]
    assert [row.split()[0] for row in rows] == ["0.00", "1.00"]


def test_timeline_draws_a_plot(run, long_clip, tmp_path):
    needs("matplotlib", "plot")
    out = tmp_path / "plot.png"
    status, _, _ = run("timeline", long_clip, "--labels", "a,b", "--plot", out)
    assert status == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.xyz", "expected a suffix of"), ("no/p.png", "no: No such file"), (".", "Is a directory")],
)
def test_timeline_refuses_a_plot_before_the_work(run, long_clip, tmp_path, monkeypatch, name, text):
    needs("matplotlib", "plot")
    monkeypatch.setattr(reclap.Model, "timeline", None)
    told = run("timeline", long_clip, "--labels", "a,b", "--plot", tmp_path / name)
    _fails(told, str(tmp_path), text)
    assert not list(tmp_path.glob("p.*"))


def test_timeline_plot_needs_matplotlib(run, long_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "reclap.plotting", raising=False)
    monkeypatch.delattr(reclap, "plotting", raising=False)
    told = run("timeline", long_clip, "--labels", "a", "--plot", tmp_path / "p.png")
    _fails(told, "pip install matplotlib", "extra plot")


def test_timeline_refuses_a_window_of_nothing(run, long_clip):
    _fails(run("timeline", long_clip, "--labels", "a", "--window", 0), "window is 0")


# ---- embed ---------------------------------------------------------------------------------------


def test_embed_writes_rows_with_their_names_and_digest(run, small, tones, tmp_path):
    status, out, _ = run("embed", *tones, "-o", tmp_path / "out.npz")
    assert (status, out) == (0, "")
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {"embeddings", "items", "kind", "model", "digest", "preparation"}
        np.testing.assert_array_equal(found["embeddings"], small.embed_audio(tones))
        assert list(found["items"]) == [str(path) for path in tones]
        assert str(found["digest"]) == small.digest
        assert (str(found["kind"]), str(found["model"])) == ("audio", "small")


def test_compare_finds_the_nearest_of_one_model_only(run, small, tones, tmp_path):
    sounds, texts, other = (tmp_path / f"{name}.npz" for name in ("sounds", "texts", "other"))
    assert run("embed", *tones, "-o", sounds)[0] == 0
    assert run("embed", "--text", "a dog", "rain", "-o", texts)[0] == 0
    status, out, _ = run("compare", texts, sounds, "--top-k", "1", "--json", model=False)
    assert status == 0
    cosines = small.embed_text(["a dog", "rain"]) @ small.embed_audio(tones).T
    for line, row in zip(out.splitlines(), cosines, strict=True):
        (best,) = json.loads(line)["nearest"]
        assert best["item"] == str(tones[row.argmax()])
        assert best["cosine"] == pytest.approx(row.max(), abs=1e-6)
    status, out, _ = run("compare", texts, sounds, model=False)
    assert status == 0
    assert out.splitlines()[0].split() == ["query", "item", "cosine"]
    assert main(["embed", "--text", "rain", "-o", str(other)]) == 0  # by the bundled model
    _fails(run("compare", other, sounds, model=False), "different models cannot be compared")
    _fails(
        run("compare", texts, Path(__file__), model=False), "test_cli.py: no file of embeddings: n"
    )


def test_embed_takes_texts(run, small, tmp_path):
    (tmp_path / "texts.txt").write_text("a dog\nrain, hard\n\n")
    args = ["--text", "a bell", "--text-file", tmp_path / "texts.txt", "-o", tmp_path / "out.npz"]
    assert run("embed", *args)[0] == 0
    with np.load(tmp_path / "out.npz") as found:
        texts = ["a bell", "a dog", "rain, hard"]
        assert list(found["items"]) == texts
        assert str(found["kind"]) == "text"
        np.testing.assert_array_equal(found["embeddings"], small.embed_text(texts))


def test_embed_leaves_bad_files_out(run, tones, tmp_path):
    out = tmp_path / "out.npz"
    status, _, err = run("embed", tones[0], "none.wav", tones[1], "--errors", "skip", "-o", out)
    assert status == 1
    assert err == "reclap: skipped: none.wav: No such file or directory\n"
    with np.load(out) as found:
        assert list(found["items"]) == [str(tones[0]), str(tones[1])]
        assert np.isfinite(found["embeddings"]).all()


def test_embed_replaces_nothing_without_force(run, tones, tmp_path):
    out = tmp_path / "out.npz"
    out.write_text("precious")
    _fails(run("embed", tones[0], "-o", out), "out.npz: exists; --force")
    assert out.read_text() == "precious"
    assert run("embed", tones[0], "-o", out, "--force")[0] == 0
    assert list(tmp_path.iterdir()) == [out]


def test_embed_failing_at_once_leaves_no_file(run, tones, tmp_path):
    _fails(run("embed", "none.wav", tones[0], "-o", tmp_path / "out.npz"), "none.wav")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.npz", "out.store"])
def test_embed_continues_where_it_was_stopped(run, small, tones, tmp_path, monkeypatch, name):
    out = tmp_path / name
    _fails(run("embed", *tones[:3], "none.wav", *tones[3:], "-o", out), "none.wav")
    asked = []
    plain = reclap.Model.iter_embed

    def watch(self, files, **options):
        asked.extend(files)
        return plain(self, files, **options)

    monkeypatch.setattr(reclap.Model, "iter_embed", watch)
    status, _, err = run("embed", *tones, "-o", out)
    assert (status, err) == (0, "reclap: 3 of 7 were there already\n")
    assert asked == [str(path) for path in tones[3:]]
    found = reclap.Embeddings.load(out)
    np.testing.assert_array_equal(found.rows, small.embed_audio(tones))
    assert found.items == tuple(str(path) for path in tones)
    assert list(tmp_path.iterdir()) == [out]


def test_embed_adds_to_a_store(run, small, tones, tmp_path):
    out = tmp_path / "a.store"
    assert run("embed", *tones[:2], "-o", out)[0] == 0
    assert run("embed", *tones[1:4], "-o", out)[0] == 0
    found = reclap.Embeddings.load(str(out))
    assert found.items == tuple(str(path) for path in tones[:4])
    np.testing.assert_array_equal(found.rows, small.embed_audio(tones[:4]))
    _fails(run("embed", "--text", "rain", "-o", out), "a.store: holds audio", "cannot append text")
    assert run("embed", tones[0], "-o", out, "--force")[0] == 0
    assert reclap.Embeddings.load(out).items == (str(tones[0]),)


def test_embed_keeps_what_another_model_began(run, tones, tmp_path):
    out = tmp_path / "out.npz"
    _fails(run("embed", tones[0], "none.wav", "-o", out), "none.wav")
    args = ("embed", tones[0], "-o", out, "--model", "mini")
    _fails(run(*args, model=False), "out.npz.partial: holds", "cannot append")
    assert run(*args, "--force", model=False)[0] == 0
    assert reclap.Embeddings.load(out).model == "mini"
    _fails(run("embed", tones[0], "none.wav", "-o", out, "--force"), "none.wav")
    status, _, err = run("embed", *tones[:2], "-o", out, "--force")  # goes on with its own
    assert (status, err) == (0, "reclap: 1 of 2 were there already\n")


@pytest.mark.parametrize("name", ["out.npz", "out.store"])
def test_rows_of_different_hops_are_not_mixed(run, small, long_clip, tones, tmp_path, name):
    out, half = tmp_path / name, ("--window-hop", "0.5")
    _fails(run("embed", long_clip, "none.wav", "-o", out, *half), "none.wav")
    _fails(run("embed", long_clip, tones[0], "-o", out), ": holds", "window_hop 0.5; cannot append")
    assert run("embed", long_clip, tones[0], "-o", out, *half)[0] == 0  # continued
    found = reclap.Embeddings.load(out)
    rows = small.embed_audio([long_clip, tones[0]], window_hop=0.5)
    np.testing.assert_array_equal(found.rows, rows)
    assert not np.array_equal(rows, small.embed_audio([long_clip, tones[0]]))
    assert (found.preparation, found.digest) == ("window_hop 0.5", small.digest)
    assert run("embed", "--text", "rain", "-o", tmp_path / "t.npz")[0] == 0
    assert run("compare", tmp_path / "t.npz", out, model=False)[0] == 0
    whole = (tmp_path / "own.npz", "--window-hop", "1")  # the model's own
    assert run("embed", long_clip, "-o", *whole)[0] == 0
    assert reclap.Embeddings.load(whole[0]).preparation == ""


@pytest.mark.parametrize("rule", ["mean_embedding", "entropy_batch"])
def test_classify_takes_the_hop(run, small, long_clip, rule):
    args = (long_clip, "--labels", "a,b", "--json", "--combine", rule)
    status, out, _ = run("classify", *args, "--window-hop", "0.25")
    assert status == 0
    [want] = small.classify(long_clip, ["a", "b"], combine=rule, window_hop=0.25)
    assert json.loads(out) == want.to_json()
    assert run("classify", *args)[1] != out


def test_texts_of_different_tokenizers_are_not_mixed(run, small_folder, tones, tmp_path):
    other, out = tmp_path / "other", tmp_path / "texts.store"
    shutil.copytree(small_folder, other)
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace("[MASK]", "[MUSK]"))
    assert run("embed", "--text", "rain", "-o", out)[0] == 0
    args = ("embed", "--text", "rain", "dog", "--model", other, "-o")
    _fails(run(*args, out, model=False), "texts.store: holds text", "cannot append", "tokenizer")
    assert run(*args, tmp_path / "b.npz", model=False)[0] == 0
    refused = run("compare", out, tmp_path / "b.npz", model=False)
    _fails(refused, "texts of different tokenizers cannot be compared")
    sounds = tmp_path / "sounds.npz"  # which no tokenizer has touched
    assert run("embed", tones[0], "--model", other, "-o", sounds, model=False)[0] == 0
    assert run("compare", out, sounds, model=False)[0] == 0


def test_standard_input_is_another_sound_each_time(run, small, tones, tmp_path, monkeypatch):
    class Input:
        def __init__(self, path):
            self.buffer = io.BytesIO(path.read_bytes())

    for n, tone_file in enumerate(tones[:2]):
        monkeypatch.setattr(sys, "stdin", Input(tone_file))
        assert run("embed", "-", "-o", tmp_path / "a.store")[0] == 0
        found = reclap.Embeddings.load(tmp_path / "a.store")
        assert found.items == ("-",) * (n + 1)
        np.testing.assert_array_equal(found.rows, small.embed_audio(tones[: n + 1]))
    monkeypatch.setattr(sys, "stdin", Input(tones[0]))
    _fails(run("embed", "-", "none.wav", "-o", tmp_path / "b.npz"), "none.wav")
    monkeypatch.setattr(sys, "stdin", Input(tones[1]))
    assert run("embed", "-", "-o", tmp_path / "b.npz")[0] == 0
    rows = reclap.Embeddings.load(tmp_path / "b.npz").rows
    np.testing.assert_array_equal(rows, small.embed_audio(tones[1]))


def test_embed_keeps_the_order_and_doubles_of_the_request(run, small, tones, tmp_path):
    out = tmp_path / "out.npz"
    _fails(run("embed", tones[2], tones[0], "none.wav", "-o", out), "none.wav")
    files = [tones[0], tones[1], tones[0], tones[2]]
    assert run("embed", *files, "-o", out)[0] == 0
    found = reclap.Embeddings.load(out)
    assert found.items == tuple(str(path) for path in files)
    np.testing.assert_array_equal(found.rows, small.embed_audio(files))


KILLED = """
import os, signal, sys
from reclap.cli import main
from reclap.store import Writer
plain, left = Writer.append, [3]
def append(*args):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args)
Writer.append = append
main(sys.argv[1:])
"""


def test_embed_continues_after_a_kill(run, small, small_folder, tones, tmp_path):
    out = tmp_path / "out.npz"
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    args = ["embed", *map(str, tones), "-o", str(out), "--model", str(small_folder)]
    command = [sys.executable, "-c", KILLED, *args]
    assert subprocess.run(command, env=environment, check=False).returncode == -9  # noqa: S603
    status, _, err = run("embed", *tones, "-o", out)
    assert (status, err) == (0, "reclap: 2 of 7 were there already\n")
    np.testing.assert_array_equal(reclap.Embeddings.load(out).rows, small.embed_audio(tones))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-o", "{tmp}/x.npz"], "either sound files or texts"),
        (["--text", "a dog", "{tmp}/src.wav", "-o", "{tmp}/x.npz"], "src.wav is a sound file"),
        (["--text", "b", "-o", "{tmp}/x.npy"], "x.npy: expected a name that ends with .npz"),
        (["--text", "b", "-o", "-"], "-o -: embeddings do not go to standard output"),
        (["--text-file", "{tmp}/latin.txt", "-o", "{tmp}/x.npz"], "latin.txt: line 2 is not UTF-8"),
        (["--text", *"ab" * 20000, "x" * 5000, "-o", "{tmp}/x.npz"], "would take 0.8 GB"),
        (["a.wav", "-o", "{tmp}/x.npz", "--text", "b"], "either sound files or texts"),
        (["--text", "b", "--window-hop", "0.5", "-o", "{tmp}/x.npz"], "texts have no windows"),
        (
            ["a.wav", "--window-hop", "2", "-o", "{tmp}/x.npz"],
            "window_hop: expected float from 0.001 to 1, got 2.0",
        ),
        (
            ["a.wav", "--window-hop", "nan", "-o", "{tmp}/x.npz"],
            "window_hop: expected float from 0.001 to 1, got nan",
        ),
        (["a.wav", "-o", "{tmp}"], "Is a directory"),
        (["a.wav", "-o", "{tmp}/none/x.npz"], "none: No such file"),
        (["--text", " ", "-o", "{tmp}/x.npz"], "--text[0] is empty"),
        (["--text-file", "{tmp}/none.txt", "-o", "{tmp}/x.npz"], "none.txt"),
    ],
)
def test_embed_refuses_impossible_requests(run, tmp_path, args, text):
    (tmp_path / "src.wav").write_bytes(b"sound")
    (tmp_path / "latin.txt").write_bytes(b"rain\ncaf\xe9\n")
    _fails(run("embed", *(a.replace("{tmp}", str(tmp_path)) for a in args)), text)


# ---- info ----------------------------------------------------------------------------------------


def test_info_prints_json(run, small, small_folder):
    status, out, _ = run("info", small_folder, "--threads", 2, "--json", model=False)
    found = json.loads(out)
    assert status == 0
    assert found | json.loads(json.dumps(small.info())) == found
    assert found["onednn"].startswith("3.")


def test_info_prints_a_table(run, small, small_folder):
    status, out, _ = run("info", small_folder, model=False)
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert status == 0
    assert lines["name"].strip() == "small"
    assert lines["digest"].strip() == small.digest
    assert "1 s at 16000 Hz" in lines["window"]


def test_info_of_a_broken_folder(run, tmp_path):
    (tmp_path / "config.json").write_text("{")
    _fails(run("info", tmp_path, model=False), "config.json: not JSON")


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"reclap {reclap.__version__}\n"


# ---- train ---------------------------------------------------------------------------------------


@pytest.fixture
def recipe(small_folder, tones, tmp_path):
    """Return a recipe of three steps over the tones."""
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"path": str(path), "caption": f"tone {i}"} for i, path in enumerate(tones)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
[model]
text = "{small_folder}"
dim = 20
front = {{ rate = 16000, samples = 16000, n_fft = 512, hop = 160, mels = 16, fmax = 8000.0 }}
audio = {{ mels = 16, spec_size = 64, embed = 16, depths = [1, 1], heads = [2, 4] }}
[data]
manifest = "manifest.jsonl"
batch = 4
[run]
steps = 3
"""
    )
    return path


def test_train_writes_a_model_that_classifies(run, recipe, tones, tmp_path):
    out = tmp_path / "run"
    status, text, _ = run("train", recipe, "--out", out, "--threads", 1, model=False)
    assert status == 0
    assert "3 steps" in text
    assert len((out / "log.jsonl").read_text().splitlines()) == 3
    status, text, _ = run(
        "classify", tones[0], "--labels", "a,b", "--json", "--model", out / "last", model=False
    )
    assert status == 0
    assert len(json.loads(text)["labels"]) == 2


def test_train_setting_changes_the_recipe(run, recipe, tmp_path):
    out = tmp_path / "run"
    args = [recipe, "--out", out, "--set", "run.steps=2", "--set", "optim.lr=1e-5"]
    assert run("train", *args, model=False)[0] == 0
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    _fails(run("train", *args, model=False), "run: not empty")
    assert run("train", *args, "--resume", model=False)[0] == 0


@pytest.mark.parametrize(
    ("setting", "text"), [("steps", "section.key=value"), ("run.step=3", "unknown step")]
)
def test_train_refuses_impossible_settings(run, recipe, tmp_path, setting, text):
    args = [recipe, "--out", tmp_path / "run", "--set", setting]
    _fails(run("train", *args, model=False), text)


def test_train_without_a_recipe(run, tmp_path):
    _fails(run("train", tmp_path / "no.toml", "--out", tmp_path, model=False), "no.toml")


# ---- Labels --------------------------------------------------------------------------------------


def labels_used(run, tone, *args):
    status, out, err = run("classify", tone, *args, "--json", "--top-k", 99)
    assert (status, err) == (0, "")
    return {entry["label"] for entry in json.loads(out)["labels"]}


def test_labels_with_commas_are_quoted(run, tones):
    found = labels_used(run, tones[0], "--labels", '"dog, barking", "rain, hard" , rain ,5" gun')
    assert found == {"dog, barking", "rain, hard", "rain", '5" gun'}


@pytest.mark.parametrize("labels", ['"dog, rain', "dog\nrain", "dog\rrain", '"dog" barks,rain'])
def test_labels_that_cannot_be_told_apart(run, tones, labels):
    _fails(run("classify", tones[0], "--labels", labels), "--labels: ", repr(labels), "on one line")


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        (
            "a.csv",
            'index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Dog, bark"\n',
            "Speech;Dog, bark",
        ),
        ("a.csv", "file,category\na.wav,dog\nb.wav,rain\nc.wav,dog\n", "dog;rain"),
        ("a.csv", "0,dog\n1,rain\n", "dog;rain"),
        ("a.csv", "dog\nrain\n", "dog;rain"),
        ("a.TSV", "id\tLabel\n7\tdog, loud\n", "dog, loud"),
        ("a.txt", "0,dog\n a\u2028b \r\n", "0,dog;a\u2028b"),
    ],
)
def test_files_of_labels(run, tones, tmp_path, name, text, want):
    (tmp_path / name).write_text(text, "utf-8", newline="")
    assert labels_used(run, tones[0], "--labels-file", tmp_path / name) == set(want.split(";"))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"x,y\n1,2\n", "no column of labels among x; y"),
        ("a.csv", b"x,label\n1\n", "row 1 has 1 columns"),
        ("a.csv", b'label\n"a', "a.csv: line 2: expected cells with ',' between them"),
        ("a.tsv", b"label\na\n\nb\rc\n", "a.tsv: line 4: expected cells with '\\t' between them"),
        ("a.csv", b"label\n", "no label"),
        ("a.txt", b"rain\ncaf\xe9\n", "a.txt: line 2 is not UTF-8"),
    ],
)
def test_files_of_labels_that_are_none(run, tones, tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    _fails(run("classify", tones[0], "--labels-file", tmp_path / name), text)


# ---- Output --------------------------------------------------------------------------------------

ESC = "\x1b]0;owned\x07\x1b[2J\u202e"


def test_nothing_that_a_file_holds_steers_the_terminal(run, tones, tmp_path):
    odd = tmp_path / f"a{ESC}.wav"
    odd.write_bytes(tones[0].read_bytes())
    for options in ([], ["--json"]):
        status, out, err = run("classify", odd, "--labels", f"rain{ESC},dog", *options)
        assert status == 0
        assert not set(ESC[0] + ESC[-1] + "\x07") & set(out + err)
        assert "owned" in out
    status, out, err = run("embed", odd, f"none{ESC}", "--errors", "skip", "-o", tmp_path / "o.npz")
    assert status == 1
    assert "\\x1b]0;owned" in err
    _fails(run("classify", f"none{ESC}", "--labels", "a"), "\\x1b]0;owned")
    texts = tmp_path / "t.npz"
    run("embed", "--text", f"rain{ESC}\nfalls", "-o", texts)
    status, out, _ = run("compare", texts, texts, model=False)
    assert status == 0
    assert "\x1b" not in out
    assert out.count("\n") == 2


def test_cells_are_bounded(run, tones):
    _, out, _ = run("classify", tones[0], "--labels", "x" * 30_000)
    assert max(map(len, out.splitlines())) < 1000


def test_arguments_are_filtered_too(capsys):
    with pytest.raises(SystemExit):
        main(["classify", f"--{ESC}"])
    assert "\x1b" not in capsys.readouterr().err


def program(*args, **options):
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    command = [sys.executable, "-m", "reclap", *map(str, args)]
    return subprocess.run(  # noqa: S603
        command, env=environment, check=False, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_full_device_is_named():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = program("cache", stdout=full)
    assert (done.returncode, done.stderr) == (
        2,
        "reclap: standard output: No space left on device\n",
    )


def test_closed_output_is_named(small_folder, tones, tmp_path):
    closed = {"preexec_fn": lambda: os.close(1)}
    done = program("cache", **closed)
    assert (done.returncode, done.stderr) == (2, "reclap: standard output: Bad file descriptor\n")
    args = ("embed", tones[0], "-o", tmp_path / "o.npz", "--model", small_folder)
    done = program(*args, **closed)  # which prints nothing
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_takes_the_place_of_closed_output():
    code = "import os, sys; from reclap.cli import main; main(['cache']); sys.exit(os.open('/', 0))"
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=environment, check=False, preexec_fn=lambda: os.close(1)
    )
    assert done.returncode > 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("culprit"), "reclap: KeyError: 'culprit' (--traceback shows where)"),
        (RuntimeError("a\nb"), "reclap: RuntimeError: a b (--traceback shows where)"),
        (RecursionError("deep"), "reclap: RecursionError: deep (--traceback shows where)"),
        (MemoryError("7 GiB"), "reclap: out of memory: 7 GiB"),
        (ValueError("bad"), "reclap: bad"),
    ],
)
def test_every_error_is_one_line_without_traceback(run, tones, monkeypatch, error, text):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(reclap.Model, "iter_classify", fail)
    assert run("classify", tones[0], "--labels", "a") == (2, "", f"{text}\n")
    status, _, err = run("classify", tones[0], "--labels", "a", "--traceback")
    assert status == 2
    assert err.startswith("Traceback")
    assert "in fail" in err
    monkeypatch.setenv("RECLAP_DEBUG", "1")
    assert "in fail" in run("classify", tones[0], "--labels", "a")[2]


def test_classify_prints_each_result_when_it_is_there(run, tones, monkeypatch):
    """The second sound is asked for after the first one's line was flushed."""
    seen = []

    class Watched(io.StringIO):
        def flush(self):
            seen.append(self.getvalue().count("\n"))

    def one_by_one(self, files, labels, **options):
        for n, file in enumerate(files):
            assert not n or seen[-1] == n
            yield reclap.Classification(file, tuple(labels), error="none")

    monkeypatch.setattr(reclap.Model, "iter_classify", one_by_one)
    monkeypatch.setattr(sys, "stdout", Watched())
    assert run("classify", *tones, "--labels", "a", "--json")[0] == 1
    assert seen[:7] == list(range(1, 8))


def test_a_rule_over_all_sounds_is_classified_at_once(run, small, tones):
    options = ("--labels", "a,b", "--combine", "entropy_batch", "--json")
    status, out, _ = run("classify", *tones, *options)
    want = small.classify(tones, ["a", "b"], combine="entropy_batch")
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [r.to_json() for r in want]


def test_cache_is_shown_and_cleared_by_part(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path))
    (tmp_path / "prompts" / "a.store").mkdir(parents=True)
    (tmp_path / "prompts" / "a.store" / "rows.bin").write_bytes(bytes(3_000_000))
    (tmp_path / "llm.sqlite").write_bytes(bytes(1_500_000))
    (tmp_path / "mine.txt").write_text("precious")
    status, out, _ = run("cache", model=False)
    assert status == 0
    rows = [line.split("  ") for line in out.splitlines()[1:]]
    assert [" ".join(filter(None, row)).split() for row in rows] == [
        ["part", "size"],
        ["prompts", "3.0", "MB"],
        ["replies", "1.5", "MB"],
        ["in", "all", "4.5", "MB"],
    ]
    assert run("cache", "--clear", "prompts", model=False)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llm.sqlite", "mine.txt"]
    assert run("cache", "--clear", "replies", model=False)[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# ---- Around them ---------------------------------------------------------------------------------


def test_interrupt_ends_with_130(run, tones, monkeypatch):
    monkeypatch.setattr(reclap.Model, "iter_classify", _interrupt)
    assert run("classify", tones[0], "--labels", "a")[0] == 130


def _interrupt(*args, **options):
    raise KeyboardInterrupt


def test_interrupt_while_a_command_is_imported(monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", _interrupt)
    assert cli.main(["info"]) == 130


@pytest.mark.parametrize("command", [["data", "check"], ["info"]])
def test_traceback_is_for_every_command(command, tmp_path, capsys):
    assert main([*command, str(tmp_path / "none.csv")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none.csv"), "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_an_action_does_not_know_is_said_by_it(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "a.csv", "--no-such"])
    assert "reclap data check: unrecognized arguments: --no-such" in capsys.readouterr().err


def test_a_command_imports_no_other():
    code = (
        "import contextlib, sys\n"
        "from reclap import cli\n"
        "with contextlib.suppress(SystemExit):\n"
        "    cli.main(['cache', '--help'])\n"
        "print(*(x for x in set(cli.COMMANDS.values()) if f'reclap.cli.{x}' in sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "cache"


@pytest.mark.parametrize("arguments", [["--help"], ["no-such-command"]])
def test_help_and_errors_name_all_commands(arguments, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    said = " ".join(capsys.readouterr())
    assert all(name in said for name in cli.COMMANDS)


def test_closed_pipe_is_silent(small_folder, tones):
    code = "import sys; from reclap.cli import main; sys.exit(main(sys.argv[1:]))"
    args = ["classify", *map(str, tones), "--labels", "a,b", "--model", str(small_folder), "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, *args],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, b"")


class Terminal(io.StringIO):
    """Standard error that somebody watches."""

    def isatty(self):
        return True


def test_progress_is_shown_to_terminals_only(run, tones, monkeypatch):
    shown = []
    original = reclap.Model.iter_embed

    def watch(self, *args, progress=False, **options):
        shown.append(progress)
        return original(self, *args, **options)

    monkeypatch.setattr(reclap.Model, "iter_embed", watch)

    out = tones[0].with_name("out.npz")
    run("embed", *tones, "-o", out, "--force")
    monkeypatch.setattr(sys, "stderr", Terminal())
    run("embed", *tones, "-o", out, "--force")
    run("embed", tones[0], "-o", out, "--force")
    assert shown == [False, True, False]


@pytest.mark.parametrize(
    ("command", "bars"),
    [
        (["info", "{model}"], ["weights", "digest"]),
        (["info", "{model}", "--dtype", "int8"], ["weights"]),  # the digest comes with them
        (["convert", "{model}", "{tmp}/copy"], ["weights", "digest"]),
        (["embed", "--text", "rain", "-o", "{tmp}/x.npz", "--model", "{model}"], ["weights", "di"]),
        (["train", "{recipe}", "--out", "{tmp}/run"], ["weights", "digest"]),
    ],
)
def test_long_work_on_checkpoints_is_watched(
    small_folder, recipe, monkeypatch, tmp_path, command, bars
):
    names = {"model": small_folder, "tmp": tmp_path, "recipe": recipe}
    for n, (patience, terminal) in enumerate([(1e9, True), (0, False), (0, True)]):
        monkeypatch.setattr(progress, "_PATIENCE", patience)
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        (tmp_path / str(n)).mkdir()
        assert main([part.format(**names | {"tmp": tmp_path / str(n)}) for part in command]) == 0
        for bar in bars:
            assert (f"\r{bar}" in stream.getvalue()) == (n == 2), (n, bar)


@pytest.mark.parametrize(("count", "shown"), [(2, False), (600, True)])
def test_progress_of_many_labels_is_shown(run, tones, monkeypatch, count, shown):
    seen = []
    plain = reclap.Model.iter_classify

    def watch(self, *args, progress=False, **options):
        seen.append(progress)
        return plain(self, *args, **options)

    monkeypatch.setattr(reclap.Model, "iter_classify", watch)
    monkeypatch.setattr(sys, "stderr", Terminal())
    labels = ",".join(f"label {i}" for i in range(count))
    assert run("classify", tones[0], "--labels", labels)[0] == 0
    assert seen == [shown]


def test_module_runs_as_a_program():
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    command = [sys.executable, "-m", "reclap", "--version"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)  # noqa: S603
    assert done.stdout.decode() == f"reclap {reclap.__version__}\n"


def test_help_loads_nothing_heavy():
    code = """
import sys
from reclap.cli import main
try:
    main(["--help"])
except SystemExit:
    print([m for m in ("numpy", "tokenizers", "tqdm", "reclap._core") if m in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)  # noqa: S603
    assert done.stdout.decode().endswith("[]\n")


def test_file_name_with_stray_bytes_is_printed(small_folder, tones, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(tones[0].read_bytes())
    environment = os.environ | {
        "PYTHONPATH": str(Path(reclap.__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8:strict",
    }
    command = [sys.executable, "-m", "reclap", "classify", odd, "--labels", "a"]
    command += ["--model", small_folder]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf" in done.stdout


def test_empty_name_is_no_folder(run):
    _fails(run("classify", "", "--labels", "a"), "expected a sound file, got an empty name")


def test_cache_folder_that_cannot_be_listed_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECLAP_CACHE", str(tmp_path / "file"))
    _fails(run("cache", model=False), f"{tmp_path / 'file'}: Not a directory")


def test_port_in_use_is_named(run, tmp_path):
    (tmp_path / "bank.json").write_text('{"rain": ["rain falls"]}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("review", tmp_path / "bank.json", "--port", port)
    _fails(result, f"port {port} of 127.0.0.1: Address already in use")
