"""Tables with aligned columns."""

from collections.abc import Sequence

from reclap.errors import shown_name

__all__ = ["print_table"]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head.

    Columns of numbers are flush right. A row whose last cells are empty, as one with an error,
    runs into their space instead of widening its column.
    """
    rows = [[_cell(cell) for cell in row] for row in rows]
    columns = list(zip(head, *rows, strict=True))
    right = [bool(rows) and all(map(_is_number, column[1:])) for column in columns]
    width = [len(cell) for cell in head]
    for row in rows:
        for i, cell in enumerate(row):
            if any(row[i + 1 :]) or i + 1 == len(row):
                width[i] = max(width[i], len(cell))
    for row in (head, *rows):
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right, strict=True))
        print("  ".join(cells).rstrip())


def _cell(text: str) -> str:
    """Return a cell on one line, truncated: names from files may hold anything."""
    return shown_name(" ".join(text.splitlines()).replace("\t", " "))


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
