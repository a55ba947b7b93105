"""Reading of torch.save's checkpoints without torch, and without running anything in them.

`read` returns the whole object, `state_dict` only the weights, `weights` also what is beside them.
Tensors are read-only views of the mapped file, so what is not looked at (optimizer state above all)
costs neither time nor memory.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reclap._types import Array
from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.pickles import archive
from reclap.pickles.machine import Opaque, shown
from reclap.pickles.rebuild import Storage, Tensor

__all__ = ["SKIPPED", "Opaque", "Weights", "read", "state_dict", "weights"]


SKIPPED = (
    "optimizer",
    "optimizer_states",
    "optimizer_state_dict",
    "pretrained_optimizer",
    "new_optimizer",
    "scaler",
    "scheduler",
    "lr_schedulers",
)
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_DEEPEST = 100


def read(path: StrPath) -> Any:
    """Read a checkpoint.

    Parameters
    ----------
    path : path
        Written by torch.save, in either of its containers.

    Returns
    -------
    object
        Dictionaries, lists, tuples, sets, text, bytes, numbers, None. Tensors and storages are
        read-only arrays: views of the mapped file, which must stay as it is while they live, and
        float32 for bfloat16. An object of any class outside a short list is an `Opaque`.

    Raises
    ------
    FormatError
        If the file is damaged or no checkpoint, or holds a complex or quantised tensor; the
        message names the file and what was expected.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> from reclap import pickles
    >>> pickles.read("missing.pt")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'missing.pt'
    """
    path = Path(path)
    return _Finish(str(path)).value(archive.load(path), _DEEPEST)[0]


class _Finish:
    """Conversion of tensors to arrays; shared objects stay shared, cycles are refused."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.done: dict[int, tuple[Any, int]] = {}  # by id: the new value and its depth

    def value(self, old: Any, left: int) -> tuple[Any, int]:
        if not isinstance(old, dict | list | tuple | Storage | Tensor):
            return old, 0
        if id(old) not in self.done and left > 0:
            self.done[id(old)] = self._made(old, left)
        new, depth = self.done.get(id(old), (None, left + 1))
        if depth > left:
            raise FormatError(
                f"{self.where}: expected at most {_DEEPEST} levels,"
                " got an object that is nested deeper or holds itself"
            )
        return new, depth

    def _made(self, old: Any, left: int) -> tuple[Any, int]:
        if isinstance(old, Tensor):
            return old.array(self.where), 1
        if isinstance(old, Storage):
            return old.items(old.code), 1
        if isinstance(old, dict):
            values = [self.value(x, left - 1) for x in old.values()]
            new: Any = dict(zip(old, (x for x, _ in values), strict=True))
        else:
            values = [self.value(x, left - 1) for x in old]
            new = type(old)(x for x, _ in values)
        return new, 1 + max((depth for _, depth in values), default=0)


class Weights(NamedTuple):
    """Weights of a checkpoint, and the names of its other entries.

    Parameters
    ----------
    tensors : dict of str to ndarray
        The weights by name.
    others : list of str
        Names of the other entries.

    Examples
    --------
    >>> Weights({"head.weight": np.zeros((2, 3), np.float32)}, ["epoch"]).others
    ['epoch']
    """

    tensors: dict[str, Array]
    others: list[str]


def state_dict(path: StrPath, skip: Iterable[str] = SKIPPED) -> dict[str, Array]:
    """Read the weights of a checkpoint without the names of its other entries; see `weights`.

    Parameters
    ----------
    path : path
        Written by torch.save, in either of its containers.
    skip : iterable of str
        Entries that are not read; see `weights`.

    Returns
    -------
    dict of str to ndarray
        Read-only views of the mapped file, in its order.

    Raises
    ------
    FormatError
        As for `weights`.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> from reclap import pickles
    >>> pickles.state_dict("missing.pt")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'missing.pt'
    """
    return weights(path, skip).tensors


def weights(path: StrPath, skip: Iterable[str] = SKIPPED) -> Weights:
    """Read the weights of a checkpoint.

    They are looked for at the top, under ``state_dict``, ``model_state_dict``, ``model`` or
    ``module``, one inside the other too, or else in the only dictionary that holds tensors. The
    prefix ``module.`` is removed where every name has it. Entries that are no tensors are left out.

    Parameters
    ----------
    path : path
        Written by torch.save, in either of its containers.
    skip : iterable of str
        Entries that are not read; among the weights, those of this name and those whose name
        continues it behind a dot.

    Returns
    -------
    tensors : dict of str to ndarray
        Read-only, in the order of the file: views of the mapped file, which must stay as it is
        while they live, possibly unaligned in the older container; float32 for bfloat16.
    others : list of str
        Names of the other entries, at every level down to the weights.

    Raises
    ------
    FormatError
        If the file is damaged or no checkpoint, or has no weights where they are looked for, or
        a weight is complex, sparse or quantised; the message names the file.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> from reclap import pickles
    >>> tensors, others = pickles.weights("model.pt")  # doctest: +SKIP
    >>> others  # doctest: +SKIP
    ['epoch', 'optimizer']
    """
    path, skip = Path(path), frozenset(skip)
    found, others = _find(path, archive.load(path), skip)
    names = [name for name in found if isinstance(name, str)]
    cut = len("module.") if all(name.startswith("module.") for name in names) else 0
    out: dict[str, Array] = {}
    for name in names:
        value, short = found[name], name[cut:]
        parts = short.split(".", 16)
        if any(".".join(parts[:i]) in skip for i in range(1, len(parts) + 1)) or short in skip:
            others.append(_label(name))
        elif isinstance(value, Tensor):
            out[short] = value.array(f"{path}: {shown(name)}")
        elif isinstance(value, np.ndarray):
            out[short] = value
        elif isinstance(value, Opaque) and value.name.startswith("torch._utils._rebuild"):
            raise FormatError(f"{path}: {shown(name)}: expected a dense tensor, got {value.name}")
        else:
            others.append(_label(name))
    return Weights(out, others)


def _find(path: Path, root: Any, skip: frozenset[str]) -> tuple[dict[Any, Any], list[str]]:
    """Return the dictionary that holds the weights, and the names beside it."""
    if isinstance(root, Opaque):
        raise FormatError(
            f"{path}: expected a state dict, got a whole object of class {root.name};"
            " save its state_dict() instead"
        )
    node, others = root, []
    for _ in range(len(_NESTED)):
        inner = _inner(node, skip)
        if inner is None:
            break
        others += [_label(key) for key, value in node.items() if value is not inner]
        node = inner
    if not isinstance(node, dict) or not _has_tensors(node):
        raise FormatError(f"{path}: expected a state dict, got {_summary(node)}")
    return node, others


def _inner(node: Any, skip: frozenset[str]) -> dict[Any, Any] | None:
    if not isinstance(node, dict):
        return None
    for key in _NESTED:
        if key not in skip and isinstance(node.get(key), dict):
            inner: dict[Any, Any] = node[key]
            return inner
    if _has_tensors(node):
        return None
    candidates = [v for k, v in node.items() if k not in skip and _has_tensors(v)]
    return candidates[0] if len(candidates) == 1 else None


def _label(key: Any) -> str:
    return key[:80] if isinstance(key, str) else shown(key)


def _has_tensors(node: Any) -> bool:
    return isinstance(node, dict) and any(
        isinstance(k, str) and isinstance(v, Tensor | np.ndarray) for k, v in node.items()
    )


def _summary(node: Any) -> str:
    if not isinstance(node, dict):
        return shown(node)
    keys = ", ".join(shown(key) for key in list(node)[:8])
    return f"a dictionary without tensors, of {keys or 'nothing'}"
