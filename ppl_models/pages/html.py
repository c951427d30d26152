"""A page of HTML in one file: sections, tables, and figures as inlined SVG."""

from __future__ import annotations

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.figure import Figure

from ppl_models.html_tables import escape

# What is drawn in this colour takes that of the page's text, light or dark.
INK = "#010203"
STYLE = {
    "font.size": 9,
    "svg.fonttype": "path",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **{f"{axis}tick.{part}": INK for axis in "xy" for part in ("color", "labelcolor")},
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    "axes.facecolor": "none",
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "image.composite_image": False,
}
SCHEME = "<style>svg{color:#222}@media (prefers-color-scheme:dark){svg{color:#ddd}}</style>"
CSS = """
:root{color-scheme:light dark;--line:#d5d9de;--soft:#f4f6f8;--good:#1a7f37;--bad:#b42318}
@media (prefers-color-scheme:dark){
:root{--line:#3d444d;--soft:#20262d;--good:#4ac26b;--bad:#ff7b72}body{background:#15191e;color:#ddd}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:72rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;
border-bottom:1px solid var(--line);padding-bottom:.2rem}p{max-width:46rem;margin:.5rem 0}
.figures{display:grid;gap:1.2rem;margin:1rem 0;
grid-template-columns:repeat(auto-fill,minmax(min(100%,23rem),1fr))}
figure{margin:0}figure.wide{grid-column:1/-1}img{width:100%;max-width:30rem;height:auto}
figure.wide img{max-width:60rem}figcaption{font-size:.85rem;opacity:.85;max-width:46rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .7rem .25rem 0;
border-bottom:1px solid var(--line)}
.facts>table>tbody>tr>td{overflow-wrap:anywhere}.facts td td{overflow-wrap:normal}
.facts>table{width:100%}
td.number{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}th.number{text-align:right}th{overflow-wrap:normal}
th[scope=row]{font-weight:600;white-space:nowrap}
pre{background:var(--soft);padding:.7rem;overflow-x:auto;font-size:.85rem;border-radius:.3rem}
.verdict{background:var(--soft);border-left:.4rem solid var(--good);padding:.6rem 1rem;
border-radius:.3rem}.verdict.bad{border-color:var(--bad)}.verdict strong{color:var(--good)}
.verdict.bad strong{color:var(--bad)}.verdict li.failed{color:var(--bad)}
.verdict ul{margin:.4rem 0;padding:0;list-style:none}
@media (max-width:40rem){
.facts>table>tbody>tr,.facts>table>tbody>tr>*{display:block}
.facts>table>tbody>tr>th{border:0;padding-bottom:0}.facts>table{width:100%;table-layout:fixed}}
footer{margin-top:2rem;font-size:.85rem;opacity:.8}
"""


def page(title: str, *blocks: str) -> str:
    """A whole page; nothing in it is fetched from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(blocks)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """The page's own title."""
    return f"<h1>{escape(text)}</h1>"


def banner(words: str, good: bool, lines: Sequence[tuple[str, bool]]) -> str:
    """A judgement, and the lines that it rests on, each with whether it is good news."""
    return (
        f'<div class="verdict{"" if good else " bad"}"><strong>{escape(words)}</strong>'
        f"{listing(lines)}</div>"
    )


def section(title: str, *blocks: str) -> str:
    """A heading and what stands under it; nothing where that is nothing."""
    inside = "\n".join(block for block in blocks if block)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def listing(lines: Sequence[tuple[str, bool]]) -> str:
    """A list of plain lines, each with whether it is good news."""
    entries = (
        f"<li{'' if good else ' class=failed'}>{'✓' if good else '✗'} {escape(line)}</li>"
        for line, good in lines
    )
    return f"<ul>{''.join(entries)}</ul>"


def figures(*drawn: str) -> str:
    """Figures side by side, as many as fit."""
    kept = "\n".join(figure for figure in drawn if figure)
    return f'<div class="figures">\n{kept}\n</div>' if kept else ""


@contextlib.contextmanager
def drawing(width: float = 4.4, height: float = 3.0) -> Iterator[Figure]:
    """A figure to draw into, in inches, in the page's own style."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def figure(drawn: Figure, caption: str, wide: bool = False) -> str:
    """A figure, which takes the colour of the page's text, with a caption."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # names in letters that no font here has
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    start = text.index("<svg")
    inside = text.index(">", start) + 1
    text = text[start:inside] + SCHEME + text[inside:].replace(INK, "currentColor")
    data = base64.b64encode(text.encode()).decode()
    return (
        f"<figure{' class=wide' if wide else ''}>"
        f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
