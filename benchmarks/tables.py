"""Tables of Markdown, printed row by row as they are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def line(cells: Iterable[object]) -> str:
    """One row."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def head(names: Sequence[str]) -> str:
    """The row of names, and the rule below it."""
    return line(names) + "\n" + line(["---"] * len(names))


def begin(names: Sequence[str]) -> None:
    """Print the head."""
    print(head(names), flush=True)


def add(cells: Iterable[object]) -> None:
    """Print a row."""
    print(line(cells), flush=True)
