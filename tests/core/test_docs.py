"""Hand-written docs: links lead somewhere, pages are listed, code runs, names are told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.pages import blocks, run_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *DOCS.glob("tutorials/*.py"),
        *ROOT.glob("benchmarks/*.md"),
    ]
)
PUBLIC = ("_exit",)  # of os: documented, whatever its name looks like
BORROWED = DOCS / "how-a-step-runs.md"
SOURCES = [
    path
    for folder in ("data", "guides", "inference", "ppl_models")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The addresses of headings, as GitHub gives them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target = next(filter(None, link))
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{named(page)} links to {target}"


def test_the_index_lists_every_page():
    linked = {
        (DOCS / link).resolve()
        for link in re.findall(r"\]\(([^)]+)\)", (DOCS / "index.md").read_text())
    }
    assert {*DOCS.glob("*.md"), DOCS / "papers" / "index.md"} - {DOCS / "index.md"} <= linked
    assert {*ROOT.glob("*.md")} <= linked


def test_lines_of_the_readme_fit_a_screen():
    lines = (ROOT / "README.md").read_text().splitlines()
    long = [line for line in lines if len(line) > 118]
    assert all(line.startswith("python3 -m venv ") for line in long), long  # the two commands
    assert len(long) == 2


@pytest.mark.parametrize(
    "page",
    [
        *("causal", "covariates", "diagnostics", "games", "guides", "measures", "runs"),
        *("sets", "training", "views", "metrics", "metrics/codes"),
        *("quick-start", "concepts"),
        *(f"how-to/{page.stem}" for page in sorted(DOCS.glob("how-to/*.md"))),
    ],
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """Pages with a test of their own are run there."""
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


def test_the_new_objective_of_the_docs_works(capsys):
    assert len(blocks("a-new-objective")) == 4
    run_page("a-new-objective")  # its asserts are the test
    assert 0 < float(capsys.readouterr().out) < 0.5  # a guess errs at 9 in 10 digits


def rows() -> Iterator[tuple[list[str], list[str]]]:
    """Names that are borrowed, and modules or folders that use them."""
    for line in BORROWED.read_text().splitlines():
        if line.startswith("| `"):
            names, places = line.split(" | ")[0].split("<br>")
            yield re.findall("`(.*?)`", names), re.findall("`(.*?)`", places)


def test_borrowed_names_are_where_the_docs_say():
    found = list(rows())
    assert len(found) > 20
    for names, places in found:
        parts = [re.compile(rf"\b{name.split('.')[-1]}\b") for name in names]
        texts = {
            place: "\n".join(p.read_text() for p in SOURCES if named(p).startswith(place))
            for place in places
        }
        for place, text in texts.items():
            assert any(part.search(text) for part in parts), (place, names)
        for name, part in zip(names, parts, strict=True):
            assert part.search("\n".join(texts.values())), (name, places)


def foreign() -> Iterator[tuple[str, str]]:
    """Names with an underscore that our sources use and nowhere define."""
    trees = {path: ast.parse(path.read_text()) for path in SOURCES}
    own = {
        name
        for tree in trees.values()
        for node in ast.walk(tree)
        for name in [
            getattr(node, "name", None),
            node.attr
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            else None,
            node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else None,
        ]
        if isinstance(name, str)
    }
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr not in own else []
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ppl_"):
                names = [*(node.module or "").split("."), *(a.name for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for a in node.names for part in a.name.split(".")]
            yield from (
                (n, named(path)) for n in names if re.match("_[^_]", n) and n not in PUBLIC
            )


def test_every_borrowed_name_is_told():
    told = set(re.findall(r"\w+", BORROWED.read_text()))
    assert not {(name, path) for name, path in foreign() if name not in told}
