"""How fast is the audio front end, against the usual Python one and against the tower?

    python benchmarks/bench_front_end.py [--threads 1] [--rounds N] [--json]

First row: bytes of a 10 s OGG clip at 44.1 kHz to its log-mel at 48 kHz; ours against soundfile,
soxr and transformers' ClapFeatureExtractor, which is what librosa's loading and CLAP's hub port do.
Then the log-mel alone, against that extractor and against librosa's. Last row: what part of
HTSAT-base's time on the same clip the front end costs; it must be below a tenth. All on one thread.
"""

import io
from typing import Any

import bench_audio_tower
import common
import numpy as np

TOLERANCE_DB = 1e-3  # above the floor of -100 dB
RATE = 44100


def clip() -> bytes:
    """Return ten seconds of noise with a slow swell as an OGG file."""
    import soundfile

    t = np.arange(10 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(t))
    samples = 0.1 * noise * (1 + np.sin(t)) + 0.2 * np.sin(2 * np.pi * 440 * t)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 1, format="OGG", subtype="VORBIS") as out:
        for start in range(0, len(t), RATE):  # long writes overflow libvorbis' stack
            out.write(samples[start : start + RATE])
    return file.getvalue()


def make_ours(data: bytes) -> common.Call:
    """Return our front end as a function."""
    from reclap import audio

    return lambda: audio.window_features(audio.load(data))[0]


def make_peer(data: bytes) -> common.Call:
    """Return the usual Python front end as a function."""
    import soundfile
    import soxr

    extract = extractor()

    def run() -> np.ndarray:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, 48000, quality="HQ")
        return extract(mono)

    return run


def extractor() -> Any:
    """Return transformers' log-mel of one waveform."""
    from transformers import ClapFeatureExtractor

    extract = ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="rand_trunc", padding="repeatpad"
    )
    return lambda x: extract(x, sampling_rate=48000, return_tensors="np")["input_features"][0, 0]


def make_mel(samples: np.ndarray) -> common.Call:
    """Return transformers' log-mel of fixed samples as a function."""
    extract = extractor()
    return lambda: extract(samples)


def make_librosa(samples: np.ndarray) -> common.Call:
    """Return librosa's log-mel of fixed samples as a function."""
    import librosa

    settings = {"n_fft": 1024, "hop_length": 480, "n_mels": 64, "fmin": 50, "fmax": 14000}

    def run() -> np.ndarray:
        power = librosa.feature.melspectrogram(y=samples, sr=48000, pad_mode="reflect", **settings)
        return librosa.power_to_db(power, amin=1e-10, top_db=None).T

    return run


def above_floor(ours: np.ndarray, peer: np.ndarray) -> float:
    """Return the largest difference in dB where there is any power."""
    loud = peer > -99
    return float(np.abs(ours[loud] - peer[loud]).max())


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=15, threads=1, about=__doc__)
    common.header(args)
    from reclap import audio

    data = clip()
    samples = audio.load(data)[: audio.AudioConfig().samples]
    front, mel = make_ours(data), common.Here(lambda: audio.window_features(samples)[0])
    rows = (
        ("decode + resample + log-mel, 10 s", common.Here(front), "transformers", make_peer, data),
        ("log-mel, 10 s", mel, "transformers", make_mel, samples),
        ("log-mel, 10 s", mel, "librosa", make_librosa, samples),
    )
    for name, ours, peer_name, make, what in rows:
        if not common.lacks(name, (peer_name,), args):
            with common.Peer(make, what, threads=args.threads) as peer:
                how = {"tolerance": TOLERANCE_DB, "gap": above_floor}
                common.compare(name, ours, peer, peer_name, args, **how)
    tower_of = (bench_audio_tower.make_ours, "HTSAT base", 1, "float32", args.threads)
    with common.Peer(*tower_of, threads=args.threads) as tower:
        a, b = common.alternate(common.Here(front), tower, args.rounds)
    common.report("front end, share of HTSAT-base", a, b, "HTSAT-base", args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
