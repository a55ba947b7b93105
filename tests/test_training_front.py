"""Training hears what inference hears, whatever the front end."""

import folders
import numpy as np
import pytest

from reclap.audio import AudioConfig, inputs
from reclap.config import ClapConfig, HtsatConfig
from reclap.io.manifest import Caption, Row
from reclap.training import augment, spectra
from reclap.training.augment import Augment
from reclap.training.data import Batches, Data
from reclap.training.evaluate import Evaluation

FRONT = AudioConfig.from_json(folders.CONFIG["front"])
# Two kinds of sounds: shorter than a window however channels are joined, and longer.
SHORT, LONG = 0.36, 2.6

# Other values than `FRONT` has, for every field. The length of a window is other in samples where
# its step in time would no longer be whole frames.
OTHERS = {
    "rate": [{"rate": 24000, "samples": 24000}],
    "samples": [{"samples": 24000}],
    "n_fft": [{"n_fft": 1024}],
    "hop": [{"hop": 320}],
    "mels": [{"mels": 24}],
    "fmin": [{"fmin": 200.0}],
    "fmax": [{"fmax": 6000.0}],
    "mel_scale": [{"mel_scale": "htk"}],
    "mel_norm": [{"mel_norm": "none"}],
    "bank_rate": [{"bank_rate": 20000}],
    "padding": [{"padding": "repeat"}, {"padding": "pad"}],
    "quantize": [{"quantize": True}],
    "window_hop": [{"window_hop": 0.5}],
    "silence": [{"silence": "keep"}],
    "level_db": [{"level_db": 7.0}],
    "truncation": [],  # a model with fusion cannot be trained
    "fusion_resize": [],
    "channels": [{"channels": "concatenate"}],
    "resampler": [{"resampler": "sinc"}],
}
FRONTS = [{}, *(change for changes in OTHERS.values() for change in changes)]
SINGLE = Data("", batch=1)


def front_of(change):
    return AudioConfig.from_json(folders.CONFIG["front"] | change)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return rows of a short and of a long sound, whose two channels differ, at 22.05 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = []
    for name, seconds in (("short", SHORT), ("long", LONG)):
        rate, rng = 22050, np.random.default_rng(1)
        left = 3 * folders.tone(440, seconds, rate) + rng.normal(0, 0.02, round(seconds * rate))
        right = folders.tone(1800, seconds, rate)
        path = folder / f"{name}.wav"
        folders.write_stereo(path, np.clip(np.stack([left, right], axis=1), -1, 1), rate)
        rows.append(Row(path, (Caption("A tone."),), {"label": "tone"}))
    return rows


def inference(row, front):
    """Return what the model embeds, shape (windows, frames, mels)."""
    found = [result for _, result in inputs.features([row.path], inputs.Reading(), front, 1)]
    assert not [x for x in found if isinstance(x, Exception)]
    return np.stack([one.mel for one in found])


def test_every_option_of_the_front_end_is_here():
    assert set(OTHERS) == set(FRONT.to_json())
    for name, changes in OTHERS.items():
        assert all(change[name] != getattr(FRONT, name) for change in changes)


@pytest.mark.parametrize("change", FRONTS, ids=str)
def test_unchanged_clip_gives_the_features_of_inference(sounds, change):
    front = front_of(change)
    (expected,) = inference(sounds[0], front)
    (mel,) = Batches(sounds[:1], SINGLE, Augment(), front, 0).batch(0).mel
    loud = expected > expected.max() - 60  # float32 powers of ten, there and back
    assert np.abs(mel - expected)[loud].max() < 2e-3


@pytest.mark.parametrize("change", [c for c in FRONTS if "level_db" not in c], ids=str)
def test_window_of_a_long_clip_gives_the_features_of_inference(sounds, change):
    """But for the frames at its edges, which see the sound around it."""
    front = front_of(change)
    expected = inference(sounds[1], front)
    whole = augment.to_db(spectra.load(sounds[1].path, 1.0, front, wrap=False).power)
    edge = front.n_fft // 2 // front.hop + 1
    spare = len(whole) - front.frames
    assert len(expected) > 1
    for k, window in enumerate(expected):
        start = round(k * spare / (len(expected) - 1))
        inner = window[edge:-edge]
        heard = whole[start : start + front.frames][edge:-edge]
        loud = inner > inner.max() - 40
        assert np.abs(heard - inner)[loud].max() < 2e-3


class Recorder:
    """A model that keeps what it is given."""

    def __init__(self):
        self.heard, self.longer = [], []

    def embed_text(self, features):
        return np.eye(1, 3, dtype="f4")

    def embed(self, mel, longer=None):
        self.heard.extend(mel)
        self.longer.append(longer)
        return np.ones((len(mel), 3), "f4")

    features = staticmethod(lambda texts: np.ones((len(texts), 2), "f4"))


@pytest.mark.parametrize("change", [*FRONTS, {"truncation": "fusion"}], ids=str)
def test_evaluation_hears_the_features_of_inference(sounds, change):
    front = front_of(change)
    audio = HtsatConfig(mels=front.mels, fusion=front.truncation == "fusion")
    config = ClapConfig(front=front, audio=audio)
    model = Recorder()
    Evaluation(sounds, "label", {"tone": ["a tone"]}, config, model)(model)
    expected = np.concatenate([inference(row, front) for row in sounds])
    np.testing.assert_array_equal(np.stack(model.heard), expected)
    if audio.fusion:
        assert [list(x) for x in model.longer] == [[False, True]]
    else:
        assert model.longer == [None]
