"""What people pass as sounds: pairs, mappings, tensors, channels first; what is skipped."""

import dataclasses
import warnings

import numpy as np
import pytest
from folders import RATE, tone
from needs import needs

import reclap
from reclap import audio
from reclap.audio import AudioConfig, inputs, windowing
from reclap.errors import FormatError


def same(small, source, want, **options):
    np.testing.assert_array_equal(small.embed_audio(source, **options), want)


# ---- Arrays and what brings its own rate ---------------------------------------------------------


def test_pairs_and_items_of_datasets_bring_their_rate(small, tones):
    clip = tone(440)
    want = small.embed_audio(clip, rate=RATE)
    item = {"path": "dog.wav", "array": clip, "sampling_rate": RATE}
    for source in ((clip, RATE), (list(clip), RATE), (clip, np.int64(RATE)), item):
        same(small, source, want)
        same(small, [source], want)
        same(small, [source, source], np.repeat(want, 2, axis=0))
        same(small, source, want, rate=3 * RATE)  # of those that do not tell
    data = tones[0].read_bytes()
    same(
        small,
        [{"bytes": data, "path": None}, {"path": str(tones[0])}],
        small.embed_audio([data] * 2),
    )
    [result] = small.classify(item, ["rain"])
    assert result.file == "dog.wav"
    line = small.timeline((clip, RATE), ["rain"])
    np.testing.assert_array_equal(line.scores, small.timeline(clip, ["rain"], rate=RATE).scores)


def test_two_files_are_no_pair(small, tones):
    assert small.embed_audio((str(tones[0]), str(tones[1]))).shape[0] == 2
    assert small.embed_audio((tone(440), tone(660)), rate=RATE).shape[0] == 2
    assert small.embed_audio((0.5, 0.25), rate=RATE).shape[0] == 1


@pytest.mark.parametrize("options", [{}, {"errors": "skip"}])
def test_mapping_without_an_array_is_named(small, options):
    source = [(tone(440), RATE), {"audio": 3}]
    if options:
        with pytest.warns(reclap.SkippedWarning, match=r"audio\[1\]: a mapping: expected array"):
            small.embed_audio(source, **options)
    else:
        with pytest.raises(ValueError, match=r"audio\[1\]: a mapping: expected array.*\['audio'\]"):
            small.embed_audio(source)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_first_on_request(small, rng, channels):
    x = (0.1 * rng.standard_normal((channels, RATE))).astype(np.float32)
    want = small.embed_audio(x.T, rate=RATE)
    same(small, x, want, rate=RATE, channels_first=True)
    same(small, (x, RATE), want, channels_first=True)
    same(small, x[0], small.embed_audio(x[0], rate=RATE), rate=RATE, channels_first=True)
    [result] = small.classify(x, ["a"], rate=RATE, channels_first=True)
    assert result.score == small.classify(x.T, ["a"], rate=RATE)[0].score
    got = small.timeline(x, ["a"], rate=RATE, channels_first=True).scores
    np.testing.assert_array_equal(got, small.timeline(x.T, ["a"], rate=RATE).scores)


@pytest.mark.parametrize("shape", [(1, RATE), (2, RATE), (16, RATE)])
def test_channels_first_without_a_word_is_refused_with_the_way_out(small, shape):
    with pytest.raises(ValueError, match=r"channels_first=True; of a batch, pass a list of its"):
        small.embed_audio(np.zeros(shape), rate=RATE)
    with pytest.raises(ValueError, match="without channels_first=True"):
        small.embed_audio(np.zeros(shape).T, rate=RATE, channels_first=True)


def test_batch_of_three_axes_is_refused_with_the_way_out(small):
    with pytest.raises(
        ValueError, match="got \\(4, 1, 800\\); of a batch, pass a list of its clips"
    ):
        small.embed_audio(np.zeros((4, 1, 800)), rate=RATE)


@pytest.mark.oracle
def test_tensors_of_torch(small):
    torch = needs("torch", "oracle")
    clip = torch.from_numpy(tone(440))
    want = small.embed_audio(clip.numpy(), rate=RATE)
    same(small, clip, want, rate=RATE)
    same(small, clip.clone().requires_grad_(), want, rate=RATE)
    same(small, [clip[None]], want, rate=RATE, channels_first=True)
    half = clip.to(torch.bfloat16)
    same(small, half, small.embed_audio(half.float().numpy(), rate=RATE), rate=RATE)
    same(small, (half.requires_grad_(), RATE), small.embed_audio(half, rate=RATE))


def test_none_is_named(small, tones):
    with pytest.raises(TypeError, match=r"audio\[1\]: .*got None"):
        small.embed_audio([tones[0], None], rate=RATE)


# ---- Names in messages ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "samples", "audio", "no", "samples: "])
def test_names_that_messages_begin_with_are_not_swallowed(small, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"no sound at all" * 9)
    with pytest.raises(FormatError, match=f"^{name}: not a sound file"):
        small.embed_audio(name)
    error = ValueError("samples: expected shape (T,)")
    inputs._name(error, "s")
    assert str(error) == "s: samples: expected shape (T,)"


# ---- Which errors are those of a sound -----------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, TypeError, MemoryError, RuntimeError, KeyError])
@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_faults_of_ours_are_not_skipped(small, tones, monkeypatch, kind, errors):
    def broken(*_):
        raise kind("operands could not be broadcast together")

    monkeypatch.setattr(inputs, "log_mels", broken)
    with pytest.raises(kind, match=r"^.?operands could not be broadcast"):
        small.embed_audio(tones, errors=errors)


BAD = [
    np.array([0, np.nan]),
    np.zeros(0),
    np.zeros((2, 3, 4)),
    np.zeros((2, RATE)),
    np.ones(9, complex),
    np.ones(9, np.int64),
    None,
    object(),
    b"",
    b"no sound" * 9,
    "missing.wav",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_bad_sounds_are_skipped(small, bad):
    with pytest.warns(reclap.SkippedWarning, match="skipped 1"):
        rows = small.embed_audio([tone(440), bad], rate=RATE, errors="skip")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(("rate", "kind"), [(0, ValueError), (44100.5, TypeError)])
def test_impossible_rate_is_no_bad_sound(small, rate, kind):
    with pytest.raises(kind, match=r"^rate: expected"):
        small.embed_audio([tone(440)], rate=rate, errors="skip")


HUGE = [1e19, -1e20, 1e11, 3e38]


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("all_of_it", [False, True])
def test_huge_samples_are_a_bad_sound(small, tones, tmp_path, huge, all_of_it):
    soundfile = pytest.importorskip("soundfile")
    clip = np.full(RATE, 0.5, np.float32)
    clip[0 if all_of_it else 7 :: 1 if all_of_it else RATE] = huge
    path = tmp_path / "huge.wav"
    soundfile.write(path, clip, RATE, "FLOAT")
    first = 0 if all_of_it else 7
    for source, name in ((path, str(path)), ((clip, RATE), r"audio\[1\]: audio array")):
        message = rf"{name}: samples reach .*at most 1e\+10, the first at frame {first}$"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=message):
                small.embed_audio([tones[0], source])
            good, bad = small.iter_classify([tones[0], source], ["rain"], errors="skip")
        assert good.error is None
        assert "samples reach" in bad.error
    with pytest.raises(ValueError, match="samples reach"):
        audio.log_mel(clip)
    with pytest.raises(ValueError, match=rf"{path}: samples reach"):
        audio.load_front(path, AudioConfig())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("largest", [2.0**31, 1e10])
def test_large_samples_up_to_the_bound_give_a_row(small, largest):
    clip = np.full((RATE, 2), -largest, np.float32)
    assert np.isfinite(small.embed_audio(clip, rate=RATE)).all()


class Breaks:
    """A stream of three windows that breaks after the first two."""

    def __init__(self, front, error):
        self.length, self._error, self._size = 3 * front.samples, error, front.samples
        self.sounding = (0, self.length)

    def blocks(self):
        yield np.ones(2 * self._size + 1, np.float32)
        if self._error:
            raise self._error


@pytest.mark.parametrize("error", [FormatError("broken further on"), OSError(5, "gone"), None])
def test_sound_that_fails_further_on_has_no_row(small, tones, monkeypatch, error):
    plain, front = inputs.open_front, small.config.front
    monkeypatch.setattr(
        inputs,
        "open_front",
        lambda item, *a, **k: Breaks(front, error) if item == "bad" else plain(item, *a, **k),
    )
    with pytest.warns(reclap.SkippedWarning, match="bad"):
        rows = small.embed_audio([tones[0], "bad", tones[1]], errors="skip")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]


# ---- Files that become shorter while they are read -----------------------------------------------


@pytest.mark.parametrize("left", [0, 5, 10, 15, 20, 29])
def test_no_window_is_short(left):
    front = AudioConfig(rate=8000, samples=10, n_fft=32, hop=4, mels=2, fmax=4000.0)

    class Shrunk:
        length, sounding = 30, (0, 30)

        def blocks(self):
            yield np.ones(left, np.float32)

    found = []
    with pytest.raises(FormatError, match="became shorter"):
        found.extend(len(window) for window in windowing.each_window(Shrunk(), front))
    assert found == [10] * (left // 10)
    long = dataclasses.replace(front, samples=40)
    with pytest.raises(FormatError, match="became shorter"):
        list(windowing.each_window(Shrunk(), long))


def test_windows_begin_at_the_nearest_sample():
    front = AudioConfig(rate=8000, samples=10, n_fft=32, hop=4, mels=2, fmax=4000.0)
    got = audio.windows(np.arange(41), front)[:, 0]
    assert got.tolist() == [0, 8, 16, 23, 31]  # 31 / 4 = 7.75
