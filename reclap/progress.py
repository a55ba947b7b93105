"""Progress bars on standard error."""

from typing import Any

__all__ = ["bar"]


def bar(total: int | None, unit: str, *, shown: bool, initial: int = 0, leave: bool = False) -> Any:
    """Return tqdm's bar, without the thread that refreshes all bars of a process.

    That thread may be writing to standard error when the interpreter shuts down, which aborts it.

    Parameters
    ----------
    total : int or None
        Items in all, where known.
    initial : int
        Items done before.
    unit : str
        What one item is called.
    shown : bool
        Otherwise the bar does nothing.
    leave : bool
        The bar stays on the screen at its end.
    """
    from tqdm import tqdm  # here, because importing reclap should stay cheap

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

    return Bar(total=total, initial=initial, unit=unit, disable=not shown, leave=leave)
