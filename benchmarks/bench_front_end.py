"""How fast is the audio front end, against the usual Python one and against the tower?

    python benchmarks/bench_front_end.py [--threads 1] [--rounds N] [--json]

First rows: bytes of OGG files at 44.1 kHz to log-mels at 48 kHz, of sixteen real clips of 5 s and
of 10 s of noise, which is as hard to decode as a file can be; ours against soundfile, soxr and
transformers' ClapFeatureExtractor, which is what librosa's loading and CLAP's hub port do. Both
repeat a short clip up to 10 s. Then the log-mel alone, against that extractor, against librosa's,
and against torch.stft with a mel bank, as torchaudio does it. Last row: what part of HTSAT-base's
time on the noise the front end costs; it must be below a tenth. All on one thread.
"""

import io
from pathlib import Path
from typing import Any

import bench_audio_tower
import common
import numpy as np

TOLERANCE_DB = 1e-3  # above the floor of -100 dB
TORCH_DB = 5e-2  # its float32 transform is as far off in bands far below the loudest
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


def real_clips() -> list[bytes]:
    """Return sixteen files of ESC-10, of all labels; none where the data is absent."""
    return [Path(row["path"]).read_bytes() for row in common.esc10()[::20]]


def make_ours(files: list[bytes]) -> common.Call:
    """Return our front end as a function."""
    from reclap import audio

    return lambda: np.stack([audio.window_features(audio.load(data))[0] for data in files])


def make_peer(files: list[bytes]) -> common.Call:
    """Return the usual Python front end as a function."""
    import soundfile
    import soxr

    extract = extractor()

    def one(data: bytes) -> np.ndarray:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, 48000, quality="HQ")
        return extract(mono)

    return lambda: np.stack([one(data) for data in files])


def hub_extractor() -> Any:
    """Return transformers' feature extractor of LAION's models without fusion."""
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="rand_trunc", padding="repeatpad"
    )


def extractor() -> Any:
    """Return transformers' log-mel of one waveform."""
    extract = hub_extractor()
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


def make_torch(samples: np.ndarray) -> common.Call:
    """Return the same of torch.stft, transformers' mel bank and a logarithm as a function."""
    import torch

    torch.set_num_threads(1)
    bank = torch.from_numpy(hub_extractor().mel_filters_slaney.astype(np.float32)).T
    x, window = torch.from_numpy(samples), torch.hann_window(1024)

    def run() -> np.ndarray:
        spectrum = torch.stft(x, 1024, 480, window=window, pad_mode="reflect", return_complex=True)
        mel = bank @ spectrum.abs().square()
        return (10 * mel.clamp(min=1e-10).log10()).T.numpy()

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

    noise, real = [clip()], real_clips()
    samples = audio.load(noise[0])[: audio.AudioConfig().samples]
    front, mel = common.Here(make_ours(noise)), lambda: audio.window_features(samples)[0]
    rows = [
        ("decode + resample + log-mel, 10 s", front, "transformers", make_peer, noise),
        ("log-mel, 10 s", common.Here(mel), "transformers", make_mel, samples),
        ("log-mel, 10 s", common.Here(mel), "librosa", make_librosa, samples),
        ("log-mel, 10 s", common.Here(mel), "torch", make_torch, samples),
    ]
    if real:
        ours = common.Here(make_ours(real))
        rows.insert(0, ("decode + resample + log-mel, real", ours, "transformers", make_peer, real))
    for name, ours, peer_name, make, what in rows:
        if not common.lacks(name, (peer_name,), args):
            with common.Peer(make, what, threads=args.threads) as peer:
                per = len(what) if isinstance(what, list) else 1
                bound = TORCH_DB if peer_name == "torch" else TOLERANCE_DB
                how = {"tolerance": bound, "gap": above_floor, "per": per}
                common.compare(name, ours, peer, peer_name, args, **how)
    tower_of = (bench_audio_tower.make_ours, "HTSAT base", 1, "float32", args.threads)
    with common.Peer(*tower_of, threads=args.threads) as tower:
        a, b = common.alternate(front, tower, args.rounds)
    common.report("front end, share of HTSAT-base", a, b, "HTSAT-base", args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
