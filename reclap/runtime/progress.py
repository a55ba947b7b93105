"""Progress bars on standard error."""

import sys
from typing import Any

__all__ = ["bar", "byte_bar"]

_PATIENCE = 1.0  # seconds that work over bytes may take before anybody asks what it does


def bar(
    total: int | None,
    unit: str,
    *,
    shown: bool,
    initial: int = 0,
    leave: bool = False,
    **options: Any,
) -> Any:
    """Return tqdm's bar, without the thread that refreshes all bars of a process.

    That thread may be writing to standard error when the interpreter shuts down, which aborts it.

    Parameters
    ----------
    total : int or None
        Items in all, where known.
    initial : int
        Items done before.
    unit : str
        Name of one item.
    shown : bool
        Otherwise the bar does nothing.
    leave : bool
        The bar stays on the screen at its end.
    **options : object
        Further arguments of tqdm.
    """
    if not shown:
        return _Hidden()
    from tqdm import tqdm  # here, because it takes 20 ms, and importing reclap should stay cheap

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

    stream = getattr(sys.stderr, "unfiltered", sys.stderr)  # a bar steers the terminal
    return Bar(total=total, initial=initial, unit=unit, leave=leave, file=stream, **options)


def byte_bar(total: int, what: str, *, shown: bool) -> Any:
    """Return a bar over bytes, which appears only if the work takes longer than a second."""
    return bar(total, "B", shown=shown, desc=what, unit_scale=True, delay=_PATIENCE)


class _Hidden:
    """A progress bar that shows nothing, with the methods of tqdm's that are used."""

    def __init__(self) -> None:
        self.n = 0

    def __enter__(self) -> "_Hidden":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_postfix(self, shown: object, **options: object) -> None:
        pass
