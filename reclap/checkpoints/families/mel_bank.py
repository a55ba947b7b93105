"""Comparison of the transform and mel bank that a checkpoint stores with the front end's.

torchlibrosa keeps transform and mel bank among the weights, so a model that was trained with other
windows, frequencies or rates shows it. Models with feature fusion store them too, of the right
sizes, but use a bank of their own.
"""

import numpy as np

from reclap._types import Array
from reclap.audio.features import mel_filters
from reclap.audio.front import AudioConfig
from reclap.checkpoints.lazy import Tensors
from reclap.errors import FormatError

__all__ = ["NAME", "check", "check_sizes"]

NAME = "logmel_extractor.melW"  # (n_fft // 2 + 1, mels)
_TRANSFORM = tuple(f"spectrogram_extractor.stft.conv_{x}.weight" for x in ("real", "imag"))

_SAME = 1e-4  # of weights up to 0.02: bfloat16 rounds by 4e-5, an fmax of 13,900 Hz differs by 7e-4


def check_sizes(tensors: Tensors, front: AudioConfig) -> None:
    """Compare the sizes of a stored transform and bank with a front end; see `check`.

    Raises
    ------
    FormatError
        If they differ.
    """
    bins = front.n_fft // 2 + 1
    expected = dict.fromkeys(_TRANSFORM, (bins, 1, front.n_fft)) | {NAME: (bins, front.mels)}
    for name, shape in expected.items():
        stored = tensors.get(name)
        if stored is not None and (stored.shape != shape or stored.dtype.kind != "f"):
            have = f"{stored.dtype} {list(stored.shape)}"
            raise FormatError(f"{name} is {have}, expected float32 {list(shape)}: {_said(front)}")


def check(tensors: Tensors, front: AudioConfig) -> None:
    """Compare transform and bank of an audio tower with its front end; one without passes.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by upstream's names without the prefix of a wrapper.
    front : AudioConfig
        Front end of the model.

    Raises
    ------
    FormatError
        If they differ.
    """
    check_sizes(tensors, front)
    if NAME not in tensors:
        return
    ours, bank = mel_filters(front).T, np.asarray(tensors[NAME])
    worst = np.abs(bank - ours).max()
    if not worst <= _SAME:
        raise FormatError(
            f"{NAME} is another mel bank than that of {_said(front)}, by up to {worst:.2g}; "
            f"it covers the bins {_bins(bank)} of the transform, expected {_bins(ours)}"
        )


def _said(front: AudioConfig) -> str:
    rate = front.bank_rate or front.rate
    return f"{rate} Hz, n_fft {front.n_fft}, {front.fmin:g} to {front.fmax:g} Hz"


def _bins(bank: Array) -> str:
    covered = np.flatnonzero(bank.any(axis=1))
    return f"{covered[0]} to {covered[-1]}" if covered.size else "none"
