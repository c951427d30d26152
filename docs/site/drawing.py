"""Formulas and plate diagrams, drawn when the site is built: no script draws them in a browser.

GitHub draws both by scripts of its own. Here formulas become MathML, and the flow charts that
papers' pages hold (``ppl_models/pages/diagram.py`` writes them) SVG.
"""

from __future__ import annotations

import html
import re
from itertools import pairwise
from typing import Any

from latex2mathml.converter import convert

CHART = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NODE = re.compile(r'(n\d+)\(\("(.*?)"\)\):::(\w+)')
EDGE = re.compile(r"(n\d+) --> (n\d+)")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL
)
HEIGHT, ROW, GAP, MARGIN = 30, 74, 26, 16  # pixels: of a node, between rows, nodes, to the edge


def on_page_markdown(markdown: str, page: Any, **options: Any) -> str:
    """Draw the flow charts of a page."""
    return CHART.sub(lambda found: chart(found[1]), markdown)


def on_page_content(content: str, page: Any, **options: Any) -> str:
    """Set the formulas of a page."""
    return FORMULA.sub(_formula, content)


def _formula(found: re.Match[str]) -> str:
    inline = found[2] is not None
    text = html.unescape(found[2] if inline else found[3]).strip()
    return str(convert(text, display="inline" if inline else "block"))


def chart(text: str) -> str:
    """A flow chart of circles, of which those after ``subgraph`` stand in a plate, as SVG."""
    outside, _, inside = text.partition("subgraph")
    plates = [NODE.findall(part) for part in (outside, inside)]
    edges = EDGE.findall(text)
    nodes = {key: (name, kind) for part in plates for key, name, kind in part}
    rows = _rows(list(nodes), edges)
    places: dict[str, tuple[float, float]] = {}
    left = float(MARGIN)
    shapes = []
    height = 2 * MARGIN + ROW * max(rows.values(), default=0) + HEIGHT + 28
    for number, part in enumerate(plates):
        if not part:
            continue
        width = _placed([key for key, *_ in part], nodes, rows, edges, left + MARGIN, places)
        if number == 1:
            shapes.append(
                f'<rect x="{left:.0f}" y="4" width="{width + 2 * MARGIN:.0f}" '
                f'height="{height - 8:.0f}" rx="8"/>'
                f'<text x="{left + width + MARGIN:.0f}" y="{height - 12:.0f}" '
                'text-anchor="end">rows</text>'
            )
        left += width + 3 * MARGIN
    shapes += [_arrow(places, nodes, rows, *edge) for edge in edges]
    for key, (name, kind) in nodes.items():
        x, y = places[key]
        shapes.append(
            f'<ellipse class="{kind}" cx="{x:.0f}" cy="{y:.0f}" rx="{_width(name) / 2:.0f}" '
            f'ry="{HEIGHT / 2:.0f}"/><text x="{x:.0f}" y="{y + 4:.0f}">{html.escape(name)}</text>'
        )
    size = f'width="{left:.0f}" height="{height:.0f}" viewBox="0 0 {left:.0f} {height:.0f}"'
    return f'<svg class="plate" {size} role="img">{ARROW}{"".join(shapes)}</svg>'


ARROW = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def _width(name: str) -> float:
    return max(HEIGHT + 8.0, 7.5 * len(name) + 20)


def _rows(keys: list[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The longest way to each node from one without parents."""
    rows = dict.fromkeys(keys, 0)
    for _ in keys:
        for parent, child in edges:
            rows[child] = min(max(rows[child], rows[parent] + 1), len(keys))
    return rows


def _placed(
    keys: list[str],
    nodes: dict[str, tuple[str, str]],
    rows: dict[str, int],
    edges: list[tuple[str, str]],
    left: float,
    places: dict[str, tuple[float, float]],
) -> float:
    """Put nodes on lines, each near the mean of its parents; gives the width that this takes."""
    lines = [[key for key in keys if rows[key] == row] for row in sorted(set(rows.values()))]
    widths = [sum(_width(nodes[key][0]) + GAP for key in line) - GAP for line in lines]
    whole = max(widths, default=0.0)
    for line, width in zip(lines, widths, strict=True):

        def wanted(key: str) -> float:
            above = [
                places[parent][0] for parent, child in edges if child == key and parent in places
            ]
            return sum(above) / len(above) if above else left + whole / 2

        x = left + (whole - width) / 2
        for key in sorted(line, key=wanted):
            places[key] = (
                x + _width(nodes[key][0]) / 2,
                MARGIN + 4 + HEIGHT / 2 + ROW * rows[key],
            )
            x += _width(nodes[key][0]) + GAP
    return whole


def _arrow(
    places: dict[str, tuple[float, float]],
    nodes: dict[str, tuple[str, str]],
    rows: dict[str, int],
    parent: str,
    child: str,
) -> str:
    """From rim to rim; one that passes a line of nodes is bent around it."""
    start, end = places[parent], places[child]
    bend = 0.0
    if abs(rows[child] - rows[parent]) > 1:
        side = 1 if start[0] >= end[0] else -1
        bend = side * (34.0 + abs(start[0] - end[0]) / 4)
    middle = ((start[0] + end[0]) / 2 + bend, (start[1] + end[1]) / 2)
    a = _rim(start, middle, _width(nodes[parent][0]))
    b = _rim(end, middle, _width(nodes[child][0]))
    points = [a, middle, b]
    assert all(one != other for one, other in pairwise(points))
    told = " ".join(f"{x:.1f} {y:.1f}" for x, y in (middle, b))
    return f'<path class="edge" d="M{a[0]:.1f} {a[1]:.1f}Q{told}" marker-end="url(#head)"/>'


def _rim(
    centre: tuple[float, float], towards: tuple[float, float], width: float
) -> tuple[float, float]:
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    share = ((2 * dx / width) ** 2 + (2 * dy / HEIGHT) ** 2) ** -0.5 if dx or dy else 0.0
    return centre[0] + share * dx, centre[1] + share * dy
