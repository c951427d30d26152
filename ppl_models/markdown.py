"""Markdown that every page of the docs shares."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars in its cells are escaped, since a bare one would start the next cell.

    Args:
        head: Names of the columns.
        rows: Cells as Markdown, as many per row as there are columns.
    """
    lines = [head, ("---",) * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plain(text: str) -> str:
    """Words as they are: a star is a star and does not start italics."""
    return text.replace("*", r"\*")
