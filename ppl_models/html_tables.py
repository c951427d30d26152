"""Tables of HTML, for pages and for what notebooks show of objects; all text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape as escaped
from typing import Any

from ppl_models.printable import printable

LONGEST, MOST = 40, 6  # letters of a name, and names, that a notebook shows
# Notebooks set numbers and words to the right; a class of our own sets words to the left.
NOTEBOOK = """<style>
div.ppl-models table{border-collapse:collapse;margin:.3rem 0}
div.ppl-models th,div.ppl-models td{text-align:left;vertical-align:top}
div.ppl-models th,div.ppl-models td{padding:.15rem .8rem .15rem 0}
div.ppl-models .number{text-align:right}
</style>"""


def escape(text: str) -> str:
    """Text as a page shows it; what would not show, or turns what follows around, by its code."""
    return escaped(printable(text, "\n\t"))


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def notebook(title: str, *blocks: str) -> str:
    """What a notebook shows of an object: a title and what stands under it."""
    inside = "\n".join(block for block in blocks if block)
    return f'<div class="ppl-models">{NOTEBOOK}<strong>{escape(title)}</strong>\n{inside}</div>'


def some(names: Sequence[object]) -> str:
    """The first few of some names, and how many there are."""
    texts = (str(name) for name in names[:MOST])
    shown = (text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in texts)
    more = f", ... ({len(names):,})" if len(names) > MOST else ""
    return ", ".join(shown) + more


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """A table; numbers stand to the right, floating ones with three digits after the point."""
    if not rows:
        return Markup()
    numeric = [isinstance(cell, int | float) for cell in rows[0]]
    top = "".join(
        f"<th{' class=number' if n else ''}>{escape(name)}</th>"
        for name, n in zip(head, numeric, strict=True)
    )
    lines = ("".join(map(_cell, row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return Markup(f'<div class="scroll"><table>{inside}</table></div>')


def facts(entries: Mapping[str, Any]) -> str:
    """A table of names and values; what is empty is left out."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_fact(value)}</td></tr>'
        for name, value in entries.items()
        if not (isinstance(value, str | Mapping | list | tuple) and not value)
    )
    return f'<div class="scroll facts"><table><tbody>{lines}</tbody></table></div>'


def pre(text: str) -> Markup:
    """Text whose line breaks and spaces count."""
    return Markup(f"<pre>{escape(text)}</pre>")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{escape(str(value))}</td>"


def _fact(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key} {_plain(entry)}" for key, entry in value.items()))
    return escape(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
