"""Embedding, zero-shot classification, timelines: promises of `Model`, whatever its weights."""

import csv
import io
import itertools
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folders
import numpy as np
import pytest
from folders import RATE, tone

import reclap
from reclap import audio
from reclap.audio import inputs
from reclap.checkpoints import safetensors

SAME = 1e-6  # the promise of the design, for unit rows


def test_rows_are_unit_float32(small, tones):
    rows = small.embed_audio(tones)
    assert rows.shape == (7, 20)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("i", range(7))
def test_clip_alone_equals_clip_in_a_batch(small, tones, i):
    batch = small.embed_audio(tones)
    assert np.abs(small.embed_audio(tones[i])[0] - batch[i]).max() <= SAME


def test_thread_count_changes_nothing(small, small_folder, tones):
    one = reclap.load(small_folder, threads=1).embed_audio(tones)
    assert np.abs(one - small.embed_audio(tones)).max() <= SAME


def test_captions_in_any_order_give_the_same_rows(mini, shared):
    with (shared / "captions" / "audiocaps_test.csv").open(newline="") as f:
        captions = [row["caption"] for row in csv.DictReader(f)][:1000]
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    rows = mini.embed_text(captions)
    np.testing.assert_array_equal(mini.embed_text([captions[i] for i in order]), rows[order])
    alone = [mini.embed_text([captions[i]])[0] for i in order[::200]]
    assert np.abs(rows[order[::200]] - alone).max() <= SAME


def test_path_array_and_bytes_give_the_same_row(small, tones):
    clip = audio.read(tones[4])
    sounds = [
        tones[4],
        str(tones[4]),
        tones[4].read_bytes(),
        io.BytesIO(tones[4].read_bytes()),
        clip.samples,
        clip.samples[:, 0].astype(np.float64),
    ]
    rows = small.embed_audio(sounds, rate=RATE)
    assert np.abs(rows - rows[0]).max() <= SAME


def test_order_is_kept_over_many_batches(small, tones):
    order = np.random.default_rng(1).integers(0, 7, 60)
    rows = small.embed_audio([tones[i] for i in order])
    assert np.abs(rows - small.embed_audio(tones)[order]).max() <= SAME


def test_different_sounds_give_different_rows(small, tones):
    rows = small.embed_audio(tones)
    gap = [np.abs(a - b).max() for a, b in itertools.combinations(rows, 2)]
    assert min(gap) > 1e-3


def test_long_clip_is_the_normalised_mean_of_its_windows(small):
    clip = tone(440, 3.3) + tone(90, 3.3) * np.linspace(0, 1, round(3.3 * RATE), dtype=np.float32)
    windows = audio.windows(clip, small.config.front)
    assert len(windows) == 4
    mean = small.embed_audio(list(windows), rate=RATE).mean(axis=0)
    want = mean / np.linalg.norm(mean)
    assert np.abs(small.embed_audio(clip, rate=RATE)[0] - want).max() <= SAME


def test_long_clip_among_short_ones_shares_their_batches(small):
    sounds = [tone(300 + 50 * i, s) for i, s in enumerate((0.2, 13.7, 0.5, 1.0, 9.2, 0.1))]
    rows = small.embed_audio(sounds, rate=RATE)
    alone = np.concatenate([small.embed_audio(x, rate=RATE) for x in sounds])
    assert np.abs(rows - alone).max() <= SAME


def test_long_sounds_are_not_decoded_far_ahead(small):
    clip = np.tile(tone(300, 1.0), 40)
    front = small.config.front
    started = []

    class Counted:
        def __init__(self, i):
            self.i = i

        def __array__(self, dtype=None, copy=None):
            started.append(self.i)
            return clip

    found = inputs.features([Counted(i) for i in range(40)], inputs.Reading(RATE), front, threads=2)
    for _ in range(20 * 40):  # forty windows each
        place, _ = next(found)
    found.close()
    assert place == 19
    assert max(started) <= 19 + 2  # the sound in turn, and one that a thread waits with


def test_no_sounds_give_no_rows(small):
    assert small.embed_audio([]).shape == (0, 20)
    assert small.classify([], ["a", "b"]) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (np.zeros(9), 1),
        (np.zeros((9, 2)), 1),
        ([0.0, 0.5, 1.0], 1),
        ([np.zeros(9), np.zeros((5, 2))], 2),
        ([[0.0, 0.5], [0.5]], 2),
        ("a.wav", 1),
        (Path("a.wav"), 1),
        (b"abc", 1),
        (io.BytesIO(b"ab\ncd\nef"), 1),
        ([Path("a.wav"), "b.wav"], 2),
        (("a.wav", "b.wav"), 2),
        ((name for name in ("a.wav", "b.wav", "c.wav")), 3),
        (np.array(["a.wav", "b.wav"]), 2),
        ({"a.wav": 1, "b.wav": 2}.keys(), 2),
        ([], 0),
        (None, 1),
    ],
)
def test_as_list_tells_one_sound_from_several(source, count):
    assert len(inputs.as_list(source)) == count


def test_open_file_is_one_sound_not_its_lines(small, tones):
    with tones[0].open("rb") as f:
        assert small.embed_audio(f).shape == (1, 20)


# ---- Naming --------------------------------------------------------------------------------------


def test_classify_scores_are_cosines_with_the_prompts(small, tones):
    labels = ["dog_bark", "rain", "clock"]
    results = small.classify(tones, labels, top_k=2)
    prompts = [f"a sound of {name.replace('_', ' ')}" for name in labels]
    want = small.embed_audio(tones) @ small.embed_text(prompts).T
    np.testing.assert_allclose([r.scores for r in results], want, atol=2e-6)
    for result, row in zip(results, want, strict=True):
        best = row.argsort()[::-1][:2]
        assert list(result.top) == [labels[i] for i in best]
        assert result.label == labels[best[0]]
        assert result.score == pytest.approx(row.max(), abs=2e-6)
        assert result.probabilities.sum() == pytest.approx(1)
    assert [r.file for r in results] == [str(path) for path in tones]


def test_probability_is_the_softmax_of_logits(small, tones):
    [result] = small.classify(tones[0], ["a", "b", "c"])
    logits = small.logit_scale * result.scores.astype(np.float64)
    want = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(result.probabilities, want, rtol=1e-5)


def test_several_prompts_stand_for_a_label_by_their_mean(small):
    prompts = {"rain": ["soft rain", "hard rain on a roof"], "dog": ["a dog"]}
    names, vectors = small.class_vectors(prompts)
    mean = small.embed_text(prompts["rain"]).mean(axis=0)
    assert names == ("rain", "dog")
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_top_k_beyond_the_labels_means_all(small, tones):
    [result] = small.classify(tones[0], ["a", "b"], top_k=99)
    assert len(result.top) == 2


def test_text_rows_do_not_depend_on_the_batch(small):
    texts = ["rain", "a dog barks at the door", "x", "clock ticking " * 3]
    alone = np.concatenate([small.embed_text([text]) for text in texts])
    assert np.abs(small.embed_text(texts) - alone).max() <= SAME


def test_json_holds_what_the_design_says(small, tones):
    [result] = small.classify(tones[0], ["a", "b"])
    data = json.loads(json.dumps(result.to_json()))
    assert list(data) == ["file", "labels"]
    assert [set(entry) for entry in data["labels"]] == [{"label", "score", "probability"}] * 2
    assert data["labels"][0]["score"] >= data["labels"][1]["score"]


# ---- Timelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "window", "hop", "want"),
    [
        (3.0, None, None, [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]),
        (2.5, 1.0, 1.0, [(0, 1), (1, 2), (2, 2.5)]),
        (0.4, 1.0, 1.0, [(0, 0.4)]),
        (1.7, 0.5, 1.0, [(0, 0.5), (1, 1.5)]),  # a hop above the window leaves gaps, as asked for
        (5.0, 2.5, 2.5, [(0, 2.5), (2.5, 5)]),
    ],
)
def test_timeline_covers_the_clip(small, seconds, window, hop, want):
    found = small.timeline(tone(400, seconds), ["a", "b", "c"], window, hop, rate=RATE)
    np.testing.assert_allclose(found.seconds, want)
    assert found.scores.shape == (len(want), 3)
    assert len(found.best) == len(want)
    assert len(found.to_json()) == len(want)


def test_timeline_rows_are_those_of_the_pieces(small):
    clip = np.concatenate([tone(200), tone(3000)])
    found = small.timeline(clip, ["a", "b"], 1.0, 1.0, rate=RATE)
    alone = small.classify([clip[:RATE], clip[RATE:]], ["a", "b"], rate=RATE)
    np.testing.assert_allclose(found.scores, [r.scores for r in alone], atol=SAME)


@pytest.mark.parametrize(("window", "hop"), [(0, None), (1, 0), (-1, 1), (float("inf"), 1)])
def test_timeline_refuses_impossible_windows(small, tones, window, hop):
    with pytest.raises(ValueError, match=r"window is .* hop"):
        small.timeline(tones[0], ["a"], window, hop)


def test_timeline_takes_one_sound(small, tones):
    with pytest.raises(ValueError, match="one sound, got 2"):
        small.timeline(tones[:2], ["a"])


# ---- About ---------------------------------------------------------------------------------------


def test_info_counts_every_parameter(small):
    info = json.loads(json.dumps(small.info()))
    count = info["parameters"]
    total = count.pop("total")
    assert total == sum(count.values()) > 0
    assert info["name"] == "small"
    assert info["window_seconds"] == 1.0
    assert info["threads"] == 2
    assert info["digest"] == small.digest


@pytest.mark.parametrize("threads", [0, -1])
def test_load_refuses_no_threads(small_folder, threads):
    with pytest.raises(ValueError, match=f"threads: .* got {threads}"):
        reclap.load(small_folder, threads=threads)


def test_load_refuses_an_unknown_dtype(small_folder):
    with pytest.raises(ValueError, match="dtype is 'float8'"):
        reclap.load(small_folder, dtype="float8")


def test_two_threads_on_one_model_get_their_own_results(small, tones):
    want = small.embed_audio(tones), small.embed_text(["rain", "dog"])
    start = threading.Barrier(4)

    def audio_rows(_):
        start.wait()
        return [small.embed_audio(tones) for _ in range(3)]

    def text_rows(_):
        start.wait()
        return [small.embed_text(["rain", "dog"]) for _ in range(9)]

    with ThreadPoolExecutor(4) as pool:
        sounds = [pool.submit(audio_rows, i) for i in range(2)]
        texts = [pool.submit(text_rows, i) for i in range(2)]
        found = [(rows, want[0]) for job in sounds for rows in job.result()]
        found += [(rows, want[1]) for job in texts for rows in job.result()]
    for rows, right in found:
        assert np.abs(rows - right).max() <= SAME


# ---- Import --------------------------------------------------------------------------------------

_WATCH = """
import sys
seen = []
sys.addaudithook(lambda name, args: seen.append((name, args[:1])))
before = set(sys.modules)
import reclap
sockets = [e for e in seen if e[0].startswith("socket.")]
models = [e for e in seen if e[0] == "open" and "models" in str(e[1])]
heavy = [m for m in ("numpy", "soxr", "tokenizers", "tqdm", "reclap._core") if m in sys.modules]
print(len(set(sys.modules) - before), len(sockets), len(models), heavy)
"""


def test_import_is_cheap_and_opens_no_socket_and_no_model():
    modules, *rest = _run(_WATCH).strip().split(maxsplit=3)
    assert int(modules) <= 20
    assert rest == ["0", "0", "[]"]


def test_loading_and_classifying_open_no_socket(small_folder, tones):
    code = f"""
import sys
def watch(name, args):
    if name.startswith("socket."):
        raise SystemExit(name)
sys.addaudithook(watch)
import reclap
print(reclap.load({str(small_folder)!r}).classify({str(tones[0])!r}, ["a", "b"])[0].label)
"""
    assert _run(code).strip() in ("a", "b")


def test_public_names_exist():
    assert all(getattr(reclap, name) is not None for name in reclap.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = reclap.nothing


def _run(code: str) -> str:
    root = str(Path(reclap.__file__).parents[1])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


# ---- The bundled model ---------------------------------------------------------------------------

SOUNDS = {
    "baby_cry": "crying baby",
    "chainsaw": "chainsaw",
    "clock_tick": "clock tick",
    "dog_bark": "dog",
    "fire_crackling": "crackling fire",
    "helicopter": "helicopter",
    "rain": "rain",
    "rooster": "rooster",
    "sea_waves": "sea waves",
    "sneeze": "sneezing",
}


def test_bundled_model_names_most_of_the_examples(mini):
    files = [folders.EXAMPLES / f"{stem}.ogg" for stem in SOUNDS]
    results = mini.classify(files, list(SOUNDS.values()))
    right = [r.label == label for r, label in zip(results, SOUNDS.values(), strict=True)]
    assert sum(right) >= 6, [(r.file, r.label) for r in results]


def test_bundled_model_is_independent_of_batch_and_threads(mini):
    files = sorted(folders.EXAMPLES.glob("*.ogg"))[:7]
    batch = mini.embed_audio(files)
    alone = np.concatenate([mini.embed_audio(file) for file in files])
    one = reclap.load("mini", threads=1).embed_audio(files)
    arrays = [audio.load(file, mini.config.front.rate) for file in files]
    from_arrays = mini.embed_audio(arrays, rate=mini.config.front.rate)
    for rows in (alone, one, from_arrays):
        assert np.abs(rows - batch).max() <= SAME


def test_a_weight_that_is_not_finite_is_of_no_config(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "bad")
    tensors = safetensors.read_tensors(tmp_path / "bad" / "model.safetensors")
    name = next(iter(tensors))
    tensors = {n: np.array(x) for n, x in tensors.items()}
    tensors[name].flat[0] = np.nan
    safetensors.write_tensors(tmp_path / "bad" / "model.safetensors", tensors)
    with pytest.raises(reclap.FormatError, match=rf"bad: {name}: .*nan"):
        reclap.load(tmp_path / "bad")
