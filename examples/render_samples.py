"""Render ten short sounds by signal processing alone, so that the examples need no recording.

    python examples/render_samples.py [FOLDER]

Each function below makes one sound of five seconds or less from noise, decaying resonances and
harmonics under a formant envelope. The samples are a function of the seed; the OGG files also hold
a random stream number, so their bytes differ from run to run. They are sketches: plausible enough
for a model that was trained on recordings to name most of them, no substitute for recordings in an
evaluation.
"""

import argparse
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE = 44100  # Hz
Signal = npt.NDArray[np.float64]
Rng = np.random.Generator
Points = Sequence[tuple[float, float]]  # (Hz, dB) or (seconds, value), straight lines between

# ---- building blocks -----------------------------------------------------------------------------


def seconds(length: float) -> Signal:
    """Return the times of `length` seconds of samples."""
    return np.arange(round(length * RATE)) / RATE


def curve(t: Signal, points: Points) -> Signal:
    """Interpolate between (time, value) points."""
    x, y = zip(*points, strict=True)
    return np.interp(t, x, y)


def shape(x: Signal, points: Points) -> Signal:
    """Filter by a magnitude response in dB, interpolated over log frequency, with zero phase."""
    f, gain = zip(*points, strict=True)
    spectrum = np.fft.rfft(x)
    at = np.log(np.maximum(np.fft.rfftfreq(len(x), 1 / RATE), 1))
    return np.fft.irfft(spectrum * 10 ** (np.interp(at, np.log(f), gain) / 20), len(x))


def noise(rng: Rng, length: float, points: Points) -> Signal:
    """Return noise of the given spectrum, of unit power."""
    x = shape(rng.standard_normal(round(length * RATE)), points)
    return x / np.sqrt(np.mean(x**2))


def slow(rng: Rng, length: float, hertz: float) -> Signal:
    """Return a smooth random curve about 0 with unit deviation and changes of `hertz`."""
    knots = rng.standard_normal(int(length * hertz) + 4)
    at = np.linspace(0, len(knots) - 1.001, round(length * RATE))
    low, x = at.astype(int), at % 1
    x = x * x * (3 - 2 * x)  # no kinks at the knots
    return knots[low] * (1 - x) + knots[low + 1] * x


def formants(f: Signal, peaks: Sequence[tuple[float, float, float]], tilt: float) -> Signal:
    """Return the gain at `f` Hz: resonances (centre Hz, width Hz, dB) over `tilt` dB an octave."""
    base = 10 ** (tilt * np.log2(np.maximum(f, 50) / 500) / 20)
    bumps = sum(10 ** (db / 20) / (1 + ((f - c) / (w / 2)) ** 2) for c, w, db in peaks)
    return base * (0.08 + bumps)


def voice(
    rng: Rng,
    f0: Signal,
    peaks: Sequence[tuple[float, float, float]],
    tilt: float = -6.0,
    rough: float = 0.01,
) -> Signal:
    """Return harmonics of a gliding pitch `f0` (Hz) under formants; `rough` jitters the pitch."""
    f0 = f0 * (1 + rough * slow(rng, len(f0) / RATE, 60))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    out = np.zeros_like(f0)
    for k in range(1, int(14000 / f0.min()) + 1):
        heard = k * f0 < 0.45 * RATE
        out += heard * formants(k * f0, peaks, tilt) * np.sin(k * phase + rng.uniform(0, 6.28))
    return out / np.sqrt(np.mean(out**2))


def ring(f: float, decay: float, length: float, phase: float = 0.0) -> Signal:
    """Return a struck resonance of `f` Hz that falls by 60 dB in `decay` seconds."""
    t = seconds(length)
    return np.sin(2 * np.pi * f * t + phase) * 10 ** (-3 * t / decay)


def add(out: Signal, sound: Signal, at: float) -> None:
    """Mix `sound` in from `at` seconds on; what hangs over the end is lost."""
    start = int(at * RATE)
    part = sound[: max(0, len(out) - start)]
    out[start : start + len(part)] += part


# ---- the sounds ----------------------------------------------------------------------------------


def rain(rng: Rng) -> Signal:
    """Steady broad hiss, and some thousand drops as short rings between 1.5 and 9 kHz."""
    spectrum = [(50, -2), (300, -6), (1000, -4), (4000, 0), (9000, -3), (16000, -12)]
    out = 0.6 * noise(rng, 5, spectrum)
    for at in rng.uniform(0, 5, 2500):
        f, decay = 1500 * 6 ** rng.random(), rng.uniform(0.004, 0.02)
        add(out, 0.7 * rng.exponential() * ring(f, decay, 1.2 * decay, rng.uniform(0, 6)), at)
    return out


def clock_tick(rng: Rng) -> Signal:
    """Two alternating ticks a second of a small metal movement in a quiet room."""
    out = 0.0015 * noise(rng, 5, [(50, 0), (200, -10), (2000, -25), (16000, -35)])
    bodies = [(2300, 0.05), (3650, 0.035), (5200, 0.03), (7900, 0.02), (1150, 0.06)]
    for i in range(10):
        tick = np.zeros(round(0.12 * RATE))
        for f, decay in bodies:
            shifted = f * (1.0 if i % 2 else 1.09)
            add(tick, rng.uniform(0.5, 1) * ring(shifted, decay, 0.12), 0)
            add(tick, 0.35 * ring(shifted * 1.02, decay, 0.1), 0.011)  # the wheel settles
        click = noise(rng, 0.012, [(200, -20), (2000, 0), (12000, -3)])
        add(tick, 1.2 * click * np.exp(-seconds(0.012) / 0.002), 0)
        add(out, (1.0 if i % 2 else 0.8) * tick, 0.2 + 0.5 * i)
    return out


def helicopter(rng: Rng) -> Signal:
    """Blade slaps, 12 a second, of low-passed noise over turbine hiss and rumble."""
    t = seconds(5)
    slap_phase = np.cumsum(12 * (1 + 0.01 * slow(rng, 5, 1))) / RATE % 1
    slap = np.exp(-slap_phase / 0.16) + 0.5 * np.exp(-(((slap_phase - 0.45) / 0.08) ** 2))
    body = noise(rng, 5, [(30, -8), (60, 2), (150, 0), (600, -10), (2000, -22), (8000, -45)])
    hiss = noise(rng, 5, [(100, -18), (500, 0), (2500, -4), (6000, -16), (12000, -40)])
    rumble = noise(rng, 5, [(30, 0), (90, 2), (200, -12), (1000, -50)])
    whine = sum(np.sin(2 * np.pi * f * t) for f in (1180, 2360, 3110))
    return (
        body * (0.15 + 1.6 * slap) + 0.25 * hiss * (0.6 + 0.6 * slap) + 0.5 * rumble + 0.02 * whine
    )


def dog_bark(rng: Rng) -> Signal:
    """Four barks: a pitch that jumps up and falls, more breath than tone, and silence between."""
    out = 2e-4 * noise(rng, 4.5, [(50, 0), (1000, -20), (16000, -40)])
    for at, top, level in [(0.3, 520, 1.0), (0.8, 470, 0.9), (2.2, 540, 1.0), (2.75, 480, 0.85)]:
        t = seconds(0.2)
        f0 = top * curve(t, [(0, 0.5), (0.05, 1.0), (0.1, 0.9), (0.2, 0.5)])
        mouth = [(650, 300, 0), (1250, 350, -4), (2500, 700, -12), (4000, 1200, -24)]
        spectrum = [
            (150, -24),
            (450, -6),
            (700, 2),
            (1300, 0),
            (2000, -8),
            (4000, -18),
            (9000, -36),
        ]
        bark = 0.7 * voice(rng, f0, mouth, -6, rough=0.09) + noise(rng, 0.2, spectrum)
        bark *= curve(t, [(0, 0), (0.03, 1), (0.08, 0.9), (0.12, 0.3), (0.16, 0.06), (0.2, 0)])
        onset = noise(rng, 0.05, [(300, -20), (1500, 0), (4000, 0), (9000, -8)])
        add(bark, 0.25 * onset * np.hanning(len(onset)), 0.02)
        add(out, level * bark, at)
        for delay in (0.043, 0.09):  # a wall or two
            add(out, 0.03 * level * bark, at + delay)
    return out


def rooster(rng: Rng) -> Signal:
    """One crow in four syllables, the last held long and falling."""
    t = seconds(2.1)
    pitch = [(0, 560), (0.1, 760), (0.2, 700), (0.26, 800), (0.38, 880), (0.5, 760), (0.56, 860)]
    pitch += [(0.7, 980), (1.2, 960), (1.6, 880), (1.9, 740), (2.1, 560)]
    level = [(0, 0), (0.03, 0.5), (0.15, 0.5), (0.2, 0.03), (0.26, 0.8), (0.44, 0.7), (0.5, 0.04)]
    level += [(0.58, 0.9), (0.8, 1), (1.3, 0.9), (1.7, 0.4), (1.95, 0.1), (2.1, 0)]
    throat = [(1000, 400, -10), (2000, 500, 2), (3000, 700, 2), (4100, 900, -8), (6500, 2500, -24)]
    crow = voice(rng, curve(t, pitch), throat, -3, rough=0.006)
    crow *= 1 + 0.25 * slow(rng, 2.1, 25)  # the syrinx flutters
    crow += 0.12 * noise(rng, 2.1, [(500, -30), (1800, 0), (3500, 0), (6000, -18), (12000, -40)])
    out = 3e-4 * noise(rng, 4.5, [(50, 0), (1000, -15), (16000, -35)])
    crow *= curve(t, level)
    add(out, crow, 0.3)
    add(out, 0.03 * crow, 0.42)  # the yard
    return out


def sea_waves(rng: Rng) -> Signal:
    """One wave that swells, breaks brightly and runs back, over the sea's low roar."""
    t = seconds(5)
    out = 0.25 * noise(rng, 5, [(40, -2), (150, 0), (600, -8), (2500, -18), (12000, -38)])
    deep = noise(rng, 5, [(60, -4), (250, 0), (900, -5), (3000, -16), (10000, -34)])
    bright = noise(
        rng, 5, [(100, -12), (500, -2), (1500, 0), (4000, -7), (10000, -18), (16000, -30)]
    )
    swell = curve(t, [(0, 0.25), (1.2, 0.4), (2.0, 1), (2.8, 0.9), (4.2, 0.4), (5, 0.25)])
    foam = curve(t, [(0, 0.15), (1.5, 0.15), (2.1, 1), (3.0, 0.75), (4.4, 0.25), (5, 0.15)])
    wash = 1 + 0.12 * slow(rng, 5, 8)
    return out + (deep * swell + 0.8 * bright * foam) * wash


def fire_crackling(rng: Rng) -> Signal:
    """Sparse snaps of very different strength over a soft low roar."""
    flutter = 1 + 0.25 * slow(rng, 5, 6)
    out = 0.05 * flutter * noise(rng, 5, [(40, 2), (120, 0), (400, -14), (2000, -24), (14000, -34)])
    at = rng.exponential(0.05)
    while at < 5:
        length = rng.uniform(0.003, 0.02)
        low = rng.uniform(600, 2500)
        snap = noise(rng, length, [(low / 3, -25), (low, 0), (low * 5, -2), (16000, -10)])
        snap *= np.exp(-seconds(length) / (length / 5))
        add(out, 0.12 * rng.exponential() ** 2 * snap, at)
        if rng.random() < 0.35:  # snaps come in clusters
            add(out, 0.08 * rng.exponential() * snap, at + rng.uniform(0.01, 0.04))
        at += rng.exponential(0.055)
    return out


def chainsaw(rng: Rng) -> Signal:
    """Two-stroke engine that idles, revs up twice and bites into wood."""
    t = seconds(5)
    revs = curve(t, [(0, 75), (0.5, 78), (0.8, 145), (2.3, 132), (2.6, 95), (3.0, 150), (5, 138)])
    load = curve(t, [(0, 0.25), (0.5, 0.3), (0.8, 1), (2.3, 1), (2.6, 0.5), (3.0, 1), (5, 0.95)])
    body = [(260, 250, 0), (700, 500, 1), (1600, 900, 2), (3000, 1500, -2), (5500, 3000, -8)]
    engine = voice(rng, revs, body, -3, rough=0.02)
    phase = np.cumsum(revs) / RATE % 1
    chain = noise(rng, 5, [(200, -15), (1200, -2), (3000, 0), (7000, -4), (15000, -14)])
    return load * (engine + 0.5 * chain * (0.5 + np.exp(-phase / 0.2)))


def baby_cry(rng: Rng) -> Signal:
    """Four cries on one breath each: pitch up, held with a tremble, down; then a gasp."""
    out = 3e-4 * noise(rng, 5, [(50, 0), (1000, -15), (16000, -35)])
    for at, length, pitch in [
        (0.1, 1.0, 460),
        (1.35, 1.15, 490),
        (2.75, 0.9, 450),
        (3.9, 1.0, 480),
    ]:
        t = seconds(length)
        glide = curve(t / length, [(0, 0.75), (0.15, 1), (0.5, 1.06), (0.8, 0.97), (1, 0.7)])
        tremble = 1 + 0.012 * np.sin(2 * np.pi * 6.5 * t)
        mouth = [(1100, 500, 0), (1700, 600, -2), (3400, 900, -4), (4900, 1200, -10)]
        cry = voice(rng, pitch * glide * tremble, mouth, -2, rough=0.012)
        cry += 0.08 * noise(rng, length, [(800, -10), (3000, 0), (9000, -15)])
        cry *= curve(t / length, [(0, 0), (0.08, 0.8), (0.4, 1), (0.8, 0.7), (1, 0)])
        add(out, cry, at)
        gasp = noise(rng, 0.16, [(500, -15), (1800, 0), (5000, -6), (12000, -25)])
        add(out, 0.05 * gasp * np.hanning(len(gasp)), at + length + 0.05)
    return out


def sneeze(rng: Rng) -> Signal:
    """Drawn breath, a voiced onset, the burst, and a tail that the room swallows."""
    out = 2e-4 * noise(rng, 4, [(50, 0), (1000, -15), (16000, -35)])
    t = seconds(0.3)
    inhale = noise(rng, 0.3, [(300, -20), (1200, -2), (2800, 0), (7000, -15)])
    add(out, 0.05 * inhale * curve(t, [(0, 0), (0.2, 1), (0.3, 0)]), 0.2)
    t = seconds(0.13)
    throat = [(750, 250, 0), (1250, 300, -3), (2700, 600, -12)]
    ah = voice(rng, curve(t, [(0, 210), (0.06, 280), (0.13, 240)]), throat, -5, rough=0.02)
    add(out, 0.45 * ah * np.hanning(len(t)), 0.52)
    t = seconds(0.5)
    spray = noise(rng, 0.5, [(150, -14), (900, -3), (2500, 0), (6000, -2), (12000, -10)])
    burst = spray * curve(t, [(0, 0), (0.015, 1), (0.1, 0.8), (0.17, 0.3), (0.3, 0.06), (0.5, 0)])
    add(out, burst, 0.66)
    f0 = curve(t, [(0, 420), (0.1, 330), (0.5, 180)])
    shout = voice(rng, f0, [(850, 400, 0), (1700, 500, -3), (3000, 900, -8)], -4, rough=0.03)
    add(out, 0.6 * shout * curve(t, [(0, 0), (0.02, 1), (0.12, 0.6), (0.25, 0.05), (0.5, 0)]), 0.67)
    room = noise(rng, 0.7, [(200, -8), (1000, 0), (4000, -6), (12000, -25)])
    add(out, 0.05 * room * np.exp(-seconds(0.7) / 0.12), 0.75)
    return out


SOUNDS: tuple[Callable[[Rng], Signal], ...] = (
    rain,
    clock_tick,
    helicopter,
    dog_bark,
    rooster,
    sea_waves,
    fire_crackling,
    chainsaw,
    baby_cry,
    sneeze,
)

# ---- files ---------------------------------------------------------------------------------------


def render(make: Callable[[Rng], Signal]) -> npt.NDArray[np.float32]:
    """Return one sound at a peak of 0.8, its ends faded; the seed is its name."""
    x = make(np.random.default_rng(zlib.crc32(make.__name__.encode())))
    ramp = np.minimum(1, np.arange(len(x)) / (0.005 * RATE))
    x = x * ramp * ramp[::-1]
    return (0.8 * x / np.abs(x).max()).astype(np.float32)


def main() -> None:
    """Write every sound as OGG Vorbis into the folder given."""
    import soundfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "sounds")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for make in SOUNDS:
        path = folder / f"{make.__name__}.ogg"
        with soundfile.SoundFile(
            path, "w", RATE, channels=1, format="OGG", subtype="VORBIS", compression_level=0.65
        ) as file:
            for part in np.array_split(render(make), 64):  # the encoder's stack is small
                file.write(part)


if __name__ == "__main__":
    main()
