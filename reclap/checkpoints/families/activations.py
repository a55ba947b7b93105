"""Activations by transformers' names."""

from reclap.config.ranges import Activation
from reclap.errors import FormatError

__all__ = ["NAMES", "activation_of"]

# Its ACT2FN (transformers/activations.py) to ours. Several of its names are one function.
NAMES: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
}


def activation_of(
    key: str, value: object, extra: dict[str, Activation] | None = None
) -> Activation:
    """Return an activation by transformers' name.

    Parameters
    ----------
    key : str
        Name of the setting, for the message.
    value : object
        Value of the setting.
    extra : dict, optional
        Further names.

    Raises
    ------
    FormatError
        If it is another one.
    """
    known = NAMES | (extra or {})
    if not isinstance(value, str) or value not in known:
        raise FormatError(f"{key} is {value!r}, expected one of {', '.join(known)}")
    return known[value]
