"""Pages that commands print: at a terminal by rich, to its width; plain where they are piped."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ppl_models.commands.output import say, shown

if TYPE_CHECKING:
    from rich.console import RenderableType


class Heading(str):
    """A line above what follows."""

    __slots__ = ()


class Verbatim(str):
    """Text whose line breaks and spaces count."""

    __slots__ = ()


class Points(tuple[str, ...]):
    """A list of sentences."""

    __slots__ = ()


@dataclass(frozen=True)
class Columns:
    """A table.

    Attributes:
        head: Titles of the columns.
        groups: Rows by the name of their group; one without a name where there are none.
        cut: Whether each row is one line: the last column is cut to the room that is left, or
            left out where that is little. Cells wrap otherwise.
    """

    head: tuple[str, ...]
    groups: Mapping[str, Sequence[Sequence[str]]]
    cut: bool = False


LEAST = 24  # letters of a last column that is worth showing
Block = str | Heading | Verbatim | Points | Columns


def put(*blocks: Block) -> None:
    """Print a page; what is empty is left out.

    Args:
        blocks: From the top down; a plain ``str`` is a paragraph.
    """
    kept = [block for block in blocks if _holds(block)]
    if not sys.stdout.isatty():
        say("\n\n".join(map(_plain, kept)))
        return
    from rich.console import Console

    # Without colours nothing but text is written, cut to the width all the same.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(color_system=colours, highlight=False, markup=False, emoji=False)
    for place, block in enumerate(kept):
        if place:
            console.print()
        console.print(_drawn(block, console.width))


def _holds(block: Block) -> bool:
    return any(block.groups.values()) if isinstance(block, Columns) else bool(block)


def _plain(block: Block) -> str:
    """All that is in a block; where rows are lines, their group is a column after the first."""
    if isinstance(block, Points):
        return "\n".join(f"- {line}" for line in block)
    if not isinstance(block, Columns):
        return block
    if not block.cut:
        parts = (
            (*([name] if name else ()), _aligned(rows)) for name, rows in block.groups.items()
        )
        return "\n".join(line for part in parts for line in part)
    rows = [(first, name, *rest) for name, found in block.groups.items() for first, *rest in found]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    # What every row leaves empty needs no column.
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _drawn(block: Block, width: int) -> RenderableType:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if isinstance(block, Columns):
        return _table(block, width)
    if isinstance(block, Heading):
        return Text(shown(block), style="bold")
    if not isinstance(block, Points | Verbatim):
        return Text(shown(block))
    # What does not fit goes on below the words, not below the dash or label before them.
    grid = Table.grid(padding=(0, 1))
    lines = [("-", line) for line in block] if isinstance(block, Points) else _labelled(block)
    for line in lines:
        grid.add_row(*map(Text, map(shown, line)))
    return Padding(grid, (0, 0, 0, 2)) if isinstance(block, Verbatim) else grid


def _labelled(text: str) -> list[tuple[str, str]]:
    """Lines as labels, which may be empty, and what stands beside them."""
    lines = text.split("\n")
    label = re.match(r"\w+ {2,}", text)
    start = label.end() if label else 0
    if any(line[start - 1 : start].strip() for line in lines):
        start = 0
    return [(line[:start].rstrip(), line[start:]) for line in lines]


def _table(block: Columns, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    def text(words: str, style: str = "") -> Text:
        cut: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"} if block.cut else {}
        return Text(shown(words), style, **cut)

    count = _fitting(block, width)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for place, title in enumerate(block.head[:count]):
        whole = place == 0 or (block.cut and place + 1 < count)
        table.add_column(text(title), no_wrap=whole, overflow="ellipsis" if block.cut else "fold")
    table.show_header = any(block.head)
    for group, rows in block.groups.items():
        if group:
            if table.row_count:
                table.add_row()
            table.add_row(text(group, "bold"))
        for first, *rest in rows:
            table.add_row(text(first, "cyan"), *map(text, rest[: count - 1]))
    return table


def _fitting(block: Columns, width: int) -> int:
    """How many columns fit, the last one cut."""
    from rich.cells import cell_len

    count = len(block.head)
    rows = [row for found in block.groups.values() for row in found]
    while block.cut and count > 2:
        taken = (max(cell_len(row[place]) for row in rows) for place in range(count - 1))
        if sum(2 + letters for letters in taken) + LEAST <= width:
            break
        count -= 1
    return count
