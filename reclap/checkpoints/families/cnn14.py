"""Conversion of Cnn14 from the checkpoints of MS-CLAP 2022 and LAION-CLAP."""

import re

import numpy as np

from reclap.checkpoints.families.htsat_names import BRANCH, shape_of
from reclap.checkpoints.lazy import Lazy, Stored, Tensors
from reclap.config.towers import Cnn14Config
from reclap.errors import FormatError, shown_name

__all__ = ["BLOCKS", "channels_first", "config_of", "from_panns", "is_cnn14"]

BLOCKS = 6  # no other of the PANNs has six

# Tensors that embedding does not need: front end, tagging.
_IGNORED = re.compile(
    r"(spectrogram_extractor|logmel_extractor|fc_audioset)\..*|.*\.num_batches_tracked"
)
_FUSION = re.compile(r"(mel_conv[12]d|fusion_model)\..*")
_KERNEL = re.compile(r"conv_block\d+\.conv\d\.weight")


def is_cnn14(tensors: Tensors) -> bool:
    """Tell whether a tower, by the names that `from_panns` takes, is one of the PANNs."""
    return any(name.startswith("conv_block") for name in tensors)


def from_panns(tensors: Tensors) -> tuple[dict[str, Stored], list[str]]:
    """Return the tower's tensors by our names, and the names left out.

    Names are those of LAION-CLAP. Kernels change from (out, in, 3, 3) to (out, 3, 3, in), in which
    the C core multiplies.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by upstream's names without the prefix of a wrapper, ``bn0.weight`` and so on.

    Raises
    ------
    FormatError
        If it has feature fusion (``enable_fusion`` of ``clap_module/pann_model.py``).
    """
    for name in tensors:
        if _FUSION.fullmatch(name):
            raise FormatError(
                f"audio tower: Cnn14 with feature fusion ({shown_name(name)}), not supported"
            )
    left = [name for name in tensors if _IGNORED.fullmatch(name)]
    kept: dict[str, Stored] = {}
    for name, x in tensors.items():
        if not _IGNORED.fullmatch(name):
            is_kernel = _KERNEL.fullmatch(name) and x.ndim == 4
            kept[BRANCH + name] = _channels_last(x) if is_kernel else x
    return kept, left


def _channels_last(kernel: Stored) -> Lazy:
    n, c, high, wide = kernel.shape
    return Lazy(
        (n, high, wide, c),
        kernel.dtype,
        lambda: np.ascontiguousarray(np.asarray(kernel).transpose(0, 2, 3, 1)),
        [kernel],
    )


def channels_first(kernel: Stored) -> Lazy:
    """Return a kernel of ours (out, 3, 3, in) as upstream keeps it, (out, in, 3, 3)."""
    n, high, wide, c = kernel.shape
    return Lazy(
        (n, c, high, wide),
        kernel.dtype,
        lambda: np.ascontiguousarray(np.asarray(kernel).transpose(0, 3, 1, 2)),
        [kernel],
    )


def config_of(tensors: Tensors) -> Cnn14Config:
    """Infer the sizes of the tower from its tensors.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by our names.

    Raises
    ------
    FormatError
        If a tensor that tells a size is missing or has the wrong number of axes, or if it is
        another of the PANNs.
    """
    number = re.compile(re.escape(BRANCH) + r"conv_block(\d{1,3})\.")
    blocks = {int(m[1]) for name in tensors if (m := number.match(name))}
    if blocks != set(range(1, BLOCKS + 1)):
        raise FormatError(f"audio tower: conv blocks {sorted(blocks)}, Cnn14 has 1 to {BLOCKS}")
    channels = shape_of(tensors, "conv_block1.conv1.weight", 4)[3]
    if channels != 1:
        raise FormatError(
            f"audio tower: Cnn14 with feature fusion of {channels} log-mels, not supported"
        )
    return Cnn14Config(
        mels=shape_of(tensors, "bn0.weight", 1)[0],
        widths=tuple(
            shape_of(tensors, f"conv_block{i}.conv2.weight", 4)[0] for i in sorted(blocks)
        ),
    )
