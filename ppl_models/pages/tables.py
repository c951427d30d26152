"""Tables, lists, addresses and pictures of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells may hold bars and line breaks.

    Args:
        head: Titles of the columns.
        rows: Cells, as many in each row as there are titles.
    """
    lines = [head, ("---",) * len(head), *rows]
    # A bar inside a cell would start the next one.
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plain(text: str) -> str:
    """Words as they are: a star is a star and does not start italics."""
    return text.replace("*", r"\*")


def points(lines: Sequence[str]) -> str:
    """A list of sentences, or that there is none."""
    return "\n".join(f"- {line}" for line in lines) or "None known."


def address(number: str) -> str:
    """Where a paper stands, of its arXiv number, DOI or OpenReview number."""
    if number.startswith("10."):
        return f"https://doi.org/{number}"
    if number.startswith("openreview:"):
        return f"https://openreview.net/forum?id={number.removeprefix('openreview:')}"
    return f"https://arxiv.org/abs/{number}"


def link(number: str) -> str:
    """A paper's number with its address; nothing of a story without a paper."""
    return f"[{number}]({address(number)})" if number else ""


def picture(name: str, caption: str) -> list[str]:
    """The picture of a paper with what it shows below; nothing without a caption."""
    if not caption:
        return []
    return [f"![{caption}](../images/{name}.png)", f"*{caption[:1].upper()}{caption[1:]}.*"]
