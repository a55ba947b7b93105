"""Wrong input: each gives a clear exception that names the culprit, or the right result.

The section "Wrong input" of the first issue, one test or more for each of its items.
"""

import errno
import logging
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import folders
import numpy as np
import pytest
from folders import RATE, tone

import reclap
from reclap import audio
from reclap.audio.resample import RESAMPLERS, resample
from reclap.checkpoints import model_folder
from reclap.cli import main

LABELS = ["rain", "dog"]


def _wav_header(frames: int, channels: int = 1) -> bytes:
    size = frames * channels * 2
    fmt = struct.pack("<HHIIHH", 1, channels, RATE, RATE * channels * 2, channels * 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt \x10\0\0\0"
        + fmt
        + b"data"
        + (struct.pack("<I", size))
    )


def _float_wav(samples: np.ndarray) -> bytes:
    data = samples.astype("<f4").tobytes()
    fmt = struct.pack("<HHIIHH", 3, 1, RATE, RATE * 4, 4, 32)
    riff = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt \x10\0\0\0" + fmt
    return riff + b"data" + struct.pack("<I", len(data)) + data


OGG = (folders.EXAMPLES / "rain.ogg").read_bytes()

# Name, content, exception, telling part of the message.
BAD_FILES = [
    ("missing.wav", None, FileNotFoundError, "No such file"),
    ("folder.wav", "folder", IsADirectoryError, "Is a directory"),
    ("empty.wav", b"", reclap.FormatError, "empty"),
    ("text.wav", b"this is no sound at all, is it?" * 9, reclap.FormatError, "sound file|format"),
    ("half_header.ogg", OGG[:100], reclap.FormatError, "half_header"),
    ("no_samples.wav", _wav_header(0), reclap.FormatError, "no "),
    ("nan.wav", _float_wav(np.array([0, np.nan, 0])), ValueError, "NaN or infinite.*frame 1"),
    ("inf.wav", _float_wav(np.array([np.inf])), ValueError, "NaN or infinite.*frame 0"),
]


@pytest.fixture
def bad_file(tmp_path, request) -> Path:
    name, content = request.param[:2]
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return path


def _cases():
    return pytest.mark.parametrize(
        ("bad_file", "kind", "text"),
        [pytest.param(case, *case[2:], id=case[0]) for case in BAD_FILES],
        indirect=["bad_file"],
    )


@_cases()
def test_bad_file_raises_and_is_named(small, tones, bad_file, kind, text):
    with pytest.raises(kind, match=text) as caught:
        small.embed_audio([tones[0], bad_file, tones[1]])
    assert bad_file.name in str(caught.value)


@_cases()
def test_bad_file_of_a_batch_leaves_the_others_their_rows(small, tones, bad_file, kind, text):
    with pytest.warns(reclap.SkippedWarning, match="skipped 1: .*" + bad_file.name) as caught:
        rows = small.embed_audio([*tones[:3], bad_file, *tones[3:]], errors="skip")
    assert np.isnan(rows[3]).all()
    assert np.abs(np.delete(rows, 3, axis=0) - small.embed_audio(tones)).max() <= 1e-6
    assert list(caught[0].message.faults) == [3]


@_cases()
def test_bad_file_is_reported_in_its_place(small, tones, bad_file, kind, text):
    results = small.classify([bad_file, *tones], LABELS, errors="skip")
    assert bad_file.name in results[0].error
    assert results[0].label is None
    assert np.isnan(results[0].score)
    assert len(results[0].probabilities) == 0
    assert results[0].to_json() == {"file": str(bad_file), "error": results[0].error}
    assert all(r.error is None and r.label in LABELS for r in results[1:])


def test_all_bad_gives_results_without_scores(small):
    results = small.classify(["a.wav", "b.wav"], LABELS, errors="skip")
    assert [r.label for r in results] == [None, None]


def test_errors_takes_two_words_only(small, tones):
    with pytest.raises(ValueError, match="errors is 'ignore'"):
        small.embed_audio(tones[0], errors="ignore")


def test_truncated_ogg_gives_what_can_be_decoded(small, tmp_path):
    path = tmp_path / "truncated.ogg"
    path.write_bytes(OGG[: len(OGG) // 2])
    samples = reclap.audio.read(path).samples
    assert 0 < len(samples) < len(reclap.audio.read(folders.EXAMPLES / "rain.ogg").samples)
    assert np.isfinite(small.embed_audio(path)).all()


def test_header_that_promises_more_than_the_file_holds(small, tmp_path):
    samples = np.round(tone(440, 0.5) * 32767).astype("<i2")
    path = tmp_path / "promises.wav"
    path.write_bytes(_wav_header(2**30) + samples.tobytes())
    want = small.embed_audio(samples, rate=RATE)
    assert np.abs(small.embed_audio(path) - want).max() <= 1e-6


@pytest.mark.parametrize("shape", [(0,), (0, 2), (5, 0)])
def test_no_samples(small, shape):
    with pytest.raises(ValueError, match=r"audio\[1\].*no samples"):
        small.embed_audio([np.zeros(9), np.zeros(shape)], rate=RATE)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_samples_give_a_row(small, count):
    row = small.embed_audio(np.full(count, 0.5), rate=RATE)
    assert np.linalg.norm(row) == pytest.approx(1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_of_an_array(small, value):
    clip = tone(440)
    clip[77] = value
    with pytest.raises(ValueError, match=r"audio\[1\]: .*NaN or infinite.*frame 77"):
        small.embed_audio([tone(440), clip], rate=RATE)


@pytest.mark.parametrize(
    ("dtype", "scale", "shift"),
    [(np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.int8, 2**7, 0), (np.uint8, 2**7, 128)],
)
def test_integer_arrays_are_scaled_by_their_range(small, dtype, scale, shift):
    whole = np.round(tone(440).astype(np.float64) * scale * 0.9)
    want = small.embed_audio(whole / scale, rate=RATE)
    found = small.embed_audio((whole + shift).astype(dtype), rate=RATE)
    assert np.abs(found - want).max() <= 1e-5


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.complex64, bool])
def test_arrays_of_other_types_are_refused(small, dtype):
    with pytest.raises(TypeError, match=rf"audio\[0\].*got {np.dtype(dtype)}"):
        small.embed_audio(np.ones(9, dtype), rate=RATE)


@pytest.mark.parametrize("shape", [(), (3, 4, 5)])
def test_wrong_rank(small, shape):
    with pytest.raises(ValueError, match=r"audio\[0\].*shape \(T,\) or \(T, channels\)"):
        small.embed_audio([np.zeros(shape)], rate=RATE)


def test_a_number_is_no_sound(small):
    with pytest.raises(TypeError, match=r"expected a path.*got float"):
        small.embed_audio(3.0, rate=RATE)


def test_paths_and_file_objects_that_cannot_be_read_are_named(small, tones):
    with pytest.raises(ValueError, match=r"'a\\x00b'.*no null character"):
        small.embed_audio("a\0b")
    with tones[0].open("rb") as file:
        pass
    with pytest.raises(ValueError, match=f"{tones[0].name}.*closed"):
        small.embed_audio(file)


def test_channels_first_is_refused(small):
    with pytest.raises(ValueError, match="channels come last"):
        small.embed_audio(np.zeros((2, RATE)), rate=RATE)


def test_non_contiguous_arrays_give_the_right_row(small):
    clip = tone(440)
    padded = np.zeros((len(clip), 3), np.float32)
    padded[:, 1] = clip
    views = [padded[:, 1], np.repeat(clip, 2)[::2], clip[::-1].copy()[::-1], clip.astype(">f4")]
    rows = small.embed_audio([clip, *views], rate=RATE)
    assert np.abs(rows - rows[0]).max() <= 1e-6


def test_read_only_array_gives_the_right_row(small):
    clip = tone(440)
    want = small.embed_audio(clip, rate=RATE)
    clip.flags.writeable = False
    assert np.abs(small.embed_audio(clip, rate=RATE) - want).max() <= 1e-6


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_missing_rate_is_refused_before_any_work(small, tones, errors):
    with pytest.raises(ValueError, match=r"audio\[1\]: .*rate"):
        small.embed_audio([tones[0], np.zeros(9)], errors=errors)
    with pytest.raises(ValueError, match=r"audio\[0\]: .*rate"):
        small.timeline(np.zeros(9), LABELS)


@pytest.mark.parametrize(
    ("rate", "kind"),
    [
        (0, ValueError),
        (-1, ValueError),
        (999, ValueError),
        (4194305, ValueError),
        (10**9, ValueError),
        (10**5000, ValueError),
        (44100.5, TypeError),
        (float("nan"), TypeError),
        (float("inf"), TypeError),
        (True, TypeError),
        (np.True_, TypeError),
        ("8k", TypeError),
    ],
    ids=range(12),
)
def test_impossible_rate(small, rate, kind):
    wanted = "whole number" if kind is TypeError else "1000 to 4194304"
    message = f"rate: expected .*{wanted}|rate: expected {wanted}"
    clip = np.zeros(9, np.float32)
    with pytest.raises(kind, match=message):
        small.embed_audio(clip, rate=rate)
    with pytest.raises(kind, match=message):
        small.classify([clip], ["rain"], rate=rate)
    with pytest.raises(kind, match=message):
        list(small.iter_embed(iter([clip]), rate=rate))
    with pytest.raises(kind, match=message):
        small.timeline(clip, ["rain"], rate=rate)
    with pytest.raises(kind, match=message):
        audio.load(clip, rate=rate)
    with pytest.raises(kind, match=message):
        audio.load(clip, rate, rate=8000)
    if isinstance(rate, str):
        return
    for item in ((clip, rate), {"array": clip, "sampling_rate": rate}):
        with pytest.raises(kind, match=rf"audio\[1\]: its {message}"):
            small.embed_audio([(clip, RATE), item])
        good, bad = small.iter_embed([(clip, RATE), item], errors="skip")
        assert good.error is None
        assert bad.error.startswith("audio[1]: its rate")


@pytest.mark.parametrize("rate", [16000, 16000.0, np.int32(16000), np.float32(16000)])
def test_whole_rates_of_any_type(rate):
    assert audio.load(np.zeros(16000, np.float32), rate=rate).shape == (48000,)
    assert audio.load(np.zeros(48000, np.float32), rate, rate=48000).shape == (16000,)


@pytest.mark.parametrize("kind", RESAMPLERS)
def test_more_samples_than_resampling_can_count_are_refused(kind):
    long = np.broadcast_to(np.zeros(1, np.float32), (1 << 20,))
    with pytest.raises(ValueError, match=r"more than 2147483647 in one array; pass it in parts"):
        resample(long, 1000, 4194304, kind)


@pytest.mark.parametrize("source", [None, 3, object()])
def test_what_is_no_sound_at_all(small, tones, source):
    with pytest.raises((TypeError, ValueError), match=r"audio\[1\]"):
        small.embed_audio([tones[0], source], rate=RATE)


# ---- Labels and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        ([], ValueError, "labels: expected at least one"),
        ({}, ValueError, "labels: expected at least one"),
        (["rain", ""], ValueError, r"labels\[1\] is empty"),
        (["rain", " \t"], ValueError, r"labels\[1\] is empty"),
        (["rain", "dog", "rain"], ValueError, "'rain' more than once"),
        ("rain", TypeError, "list of strings, got one string"),
        (["rain", 3], TypeError, r"labels\[1\]: expected a string, got int"),
        ({"rain": []}, ValueError, r"labels\['rain'\]: expected at least one"),
        ({"rain": "soft rain"}, TypeError, r"labels\['rain'\]: expected a list"),
        ({"": ["soft rain"]}, ValueError, r"labels\[0\] is empty"),
    ],
)
def test_labels_that_cannot_be(small, tones, labels, kind, text):
    with pytest.raises(kind, match=text):
        small.classify(tones[0], labels)


@pytest.mark.parametrize("template", ["", "a sound"])
def test_template_without_a_label(small, tones, template):
    with pytest.raises(ValueError, match=r"must contain \{label\}"):
        small.classify(tones[0], LABELS, template=template)


def test_top_k_of_nothing(small, tones):
    with pytest.raises(ValueError, match="top_k is 0"):
        small.classify(tones[0], LABELS, top_k=0)


@pytest.mark.parametrize(
    ("texts", "kind", "text"),
    [
        (["rain", ""], ValueError, r"texts\[1\] is empty"),
        ("rain", TypeError, r"got one string; write \['rain'\]"),
        ([None], TypeError, "got NoneType"),
        (["caf\udce9"], ValueError, r"texts\[0\]: not valid Unicode"),
    ],
)
def test_texts_that_cannot_be(small, texts, kind, text):
    with pytest.raises(kind, match=text):
        small.embed_text(texts)


def test_text_of_5000_words_is_cut_and_says_so(small, caplog):
    with caplog.at_level(logging.WARNING, logger="reclap"):
        rows = small.embed_text(["rain " * 5000, "rain " * 5])
    assert "1 of 2 texts were cut at 32 tokens" in caplog.text
    beginning = small.embed_text(["rain " * 7 + "ra"])  # 30 letters between the special tokens
    assert np.abs(rows[0] - beginning[0]).max() <= 1e-6


def test_text_of_signs_without_words_gives_a_row(small):
    assert np.linalg.norm(small.embed_text(["?!"])) == pytest.approx(1)


# ---- Models --------------------------------------------------------------------------------------


def test_unknown_model_name_lists_the_bundled_ones():
    with pytest.raises(FileNotFoundError, match=r"no model named or at 'maxi'; bundled: .*mini"):
        reclap.load("maxi")


def test_empty_name_is_no_folder():
    with pytest.raises(FileNotFoundError, match="no model named or at ''"):
        reclap.load("")


def test_pipe_instead_of_a_model(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(reclap.FormatError, match=r"model\.pt: expected a model folder"):
        reclap.load(tmp_path / "model.pt")


def test_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        reclap.load(tmp_path)


def test_file_instead_of_a_model_folder(tones):
    with pytest.raises(reclap.FormatError, match=r"0\.wav: expected a model folder"):
        reclap.load(tones[0])


@pytest.mark.parametrize("name", ["model.safetensors", "text.safetensors", "tokenizer.json"])
def test_model_folder_with_a_file_missing(small_folder, tmp_path, name):
    for path in small_folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).hardlink_to(path)
    with pytest.raises(FileNotFoundError, match=name):
        reclap.load(tmp_path)


def test_output_below_a_file(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError, match="file"):
        small.save(tmp_path / "file" / "model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(small, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=tmp_path.name):
        small.save(tmp_path / "model")


FULL = """
import resource, signal, sys
import reclap
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
small = reclap.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    small.save(sys.argv[2])
except OSError as error:
    sys.exit(f"refused: {error}")
"""


def test_save_beyond_the_size_limit_leaves_the_old_model(small_folder, tmp_path):
    """The system itself refuses; in a process of its own, whose output is no file that grows."""
    folder = folders.write_folder(tmp_path / "model", seed=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", FULL, small_folder, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert re.search(r"refused: .*File too large.*/model", run.stderr)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_save_on_a_full_disk_leaves_the_old_model(small, tmp_path, monkeypatch):
    folder = folders.write_folder(tmp_path / "model", seed=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = []

    def fsync(handle):  # the disk is full when the second file is put on it
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(model_folder.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left.*/model") as caught:
        small.save(folder)
    assert ".tmp" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert reclap.load(folder).digest != small.digest
    calls.clear()
    with pytest.raises(OSError, match="No space left"):
        small.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---- Arguments of another type -------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, [None], object(), [object()]])
def test_what_a_sound_may_be_is_said_without_a_rate(small, source):
    with pytest.raises(TypeError, match="expected a path, bytes, a file object or an array"):
        small.classify(source, LABELS)
    with pytest.raises(TypeError, match="expected a path, bytes, a file object or an array"):
        audio.load(None)


@pytest.mark.parametrize("wrong", [None, 5])
def test_labels_texts_and_sources_are_named(small, tones, wrong):
    with pytest.raises(TypeError, match=r"^labels: expected a list of strings, got \w+$"):
        small.classify([tones[0]], wrong)
    with pytest.raises(TypeError, match=r"^texts: expected a list of strings, got \w+$"):
        small.embed_text(wrong)
    with pytest.raises(TypeError, match=r"^source: expected a name or a path, got \w+$"):
        reclap.load(wrong)


def test_nothing_to_embed_gives_no_row(small):
    assert small.embed_audio([]).shape == small.embed_text([]).shape == (0, small.config.dim)
    assert small.embed_text([]).dtype == np.float32
    assert small.classify([], LABELS) == []


# ---- Files of embeddings that cannot be compared -------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.eye(3, 8) * [[1], [2], [1]], r"row 1 \(b\) has length 2, expected 1"),
        (np.eye(3, 8) * [[1], [1], [np.nan]], r"row 2 \(c\) has length nan, expected 1"),
        (np.zeros((0, 8)), "no item"),
    ],
)
def test_rows_that_have_no_cosines_are_named(tmp_path, capsys, rows, message):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    for path, values in ((good, np.eye(3, 8)), (bad, rows)):
        items = tuple("abc"[: len(values)])
        reclap.Embeddings(values.astype(np.float32), items, "audio", "m", "d").save(path)
    for pair in ((good, bad), (bad, good)):
        assert main(["compare", *map(str, pair)]) == 2
        assert re.search(f"{bad}: {message}", capsys.readouterr().err)
    with pytest.raises(ValueError, match=f"among: {message}"):
        reclap.nearest(reclap.Embeddings.load(good), reclap.Embeddings.load(bad))


def test_store_without_its_header_is_named_and_kept(small_folder, tones, tmp_path, capsys):
    out = tmp_path / "x.store"
    command = ["embed", str(tones[0]), "-o", str(out), "--model", str(small_folder)]
    assert main(command) == 0
    before = (out / "rows.bin").read_bytes()
    (out / "header.json").unlink()
    assert main(command) == 2
    assert f"{out}: a store without its header.json" in capsys.readouterr().err
    assert (out / "rows.bin").read_bytes() == before
    assert main([*command, "--force"]) == 0
    assert len(reclap.Embeddings.load(out).items) == 1
