"""Rooms: a module imports its own room and rooms below, however it does so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_models.catalogue import PAPERS

ROOT = Path(__file__).parents[2]
TOPS = {
    "ppl_models": "ppl_models",
    **{n: f"ppl_models.{n}" for n in ("data", "guides", "inference")},
}

# From the ground up. What stands in one line does not know each other.
FLOORS = (
    ("core",),
    ("data.tables", "guides"),
    ("data.store",),
    ("data.streams", "data.factors"),
    ("data.readers",),
    ("data.render",),
    ("data.catalogue",),
    ("data.straight",),
    ("inference.traces",),
    ("inference.objectives",),
    ("pair",),
    ("inference.posterior",),
    ("inference.sampling", "inference.metrics"),
    ("inference.diagnostics",),
    ("inference.training",),
    ("inference.plots",),
    ("face",),
    ("parts",),
    ("papers",),
    ("study",),
    ("pages",),
    ("testing",),
    ("commands",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PAIR = {  # flat modules that know inference
    *("pair", "catalogue", "counterfactuals", "interventions", "prior_rows", "set_sites"),
}
PUBLIC = {"papers", "study", "pages", "testing", "commands", "parts"}  # rooms that use the faces
CATALOGUE = "ppl_models.catalogue"  # holds the papers' places, by string
PAPER_ROOMS = {
    *(place.split(".")[1] for place in PAPERS.values()),
    *("disentangled", "hierarchical", "causal", "multimodal", "contrastive", "bio"),
}


FACES = (
    *([], ["data"], ["guides"], ["inference"], ["inference", "metrics"], ["inference", "plots"]),
    ["testing"],
)


def room(module: str) -> str:
    """The room that a module of ours stands in."""
    parts = module.split(".")[1:]
    if parts in FACES:
        return "face"
    if parts[0] in PAPER_ROOMS:
        return "papers"
    if parts[0] == "guides":
        return "guides"
    if parts[0] in ("data", "inference"):
        return ".".join(parts[:2])
    if len(parts) > 1 or parts[0] in FLOOR:
        return parts[0]
    if parts[0] in PAIR:
        return "pair"
    return "commands" if parts[0] == "__main__" else "core"


def modules(root: Path) -> dict[str, Path]:
    """Every module by its name as it is imported."""
    found = {}
    for top, package in TOPS.items():
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root / top).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def imports(tree: ast.AST, known: set[str], strings: bool = True) -> list[tuple[int, str]]:
    """Modules of ours that a tree names, with the line: at any depth, and in strings."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppl_models":
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.append((node.lineno, full if full in known else str(node.module)))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names if a.name.startswith("ppl_models")]
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str):
            place = re.fullmatch(r"(ppl_models(?:\.\w+)*)(?::\w+)?", node.value)
            if place and place[1] in known:
                found.append((node.lineno, place[1]))
    return found


def against(root: Path) -> list[str]:
    """Imports that lead upwards, or from inside to a face, one line each."""
    every, wrong = modules(root), []
    for module, path in every.items():
        own = room(module)
        if own == "face":
            continue
        for line, target in imports(ast.parse(path.read_text()), set(every)):
            other = room(target)
            arrow = f"{path.relative_to(root)}:{line}: {module} ({own}) -> {target} ({other})"
            if other == "face":
                if own not in PUBLIC:
                    wrong.append(f"{arrow}: only {', '.join(sorted(PUBLIC))} use faces")
            elif other not in FLOOR or own not in FLOOR:
                wrong.append(f"{arrow}: give the room a floor")
            elif other != own and FLOOR[other] >= FLOOR[own] and module != CATALOGUE:
                wrong.append(arrow)
    return wrong


def test_no_import_leads_upwards():
    assert against(ROOT) == []


def test_catalogues_alone_name_what_is_above_them():
    """By string; the catalogue of papers imports none of them."""
    for name in ("catalogue.py", "pair.py", "interventions.py"):
        tree = ast.parse((ROOT / "ppl_models" / name).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[1:2] not in [[p] for p in PAPER_ROOMS]


def test_no_modules_import_each_other():
    """Not even within a room, but for types; what the catalogue names, it does not import."""
    every = modules(ROOT)
    graph = {}
    for module, path in every.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        graph[module] = {
            target
            for _, target in imports(tree, set(every), strings=module != CATALOGUE)
            if target != module and room(target) != "face"
        }
    assert [m for m in graph if m in reached(graph, m)] == []


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += graph[module]
    return seen


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("inference/traces/a.py", "from ppl_models.inference.objectives import base"),
        ("inference/traces/a.py", "from ppl_models.pair import Pair"),
        ("inference/objectives/a.py", "def f():\n    from ppl_models import inference"),
        ("inference/objectives/a.py", "if TYPE_CHECKING:\n    from ppl_models.pair import Pair"),
        ("data/tables/a.py", 'importlib.import_module("ppl_models.inference.traces.sites")'),
        ("guides/a.py", "import ppl_models.data.tables.table"),
        ("inference/training/a.py", "from ppl_models.semisupervised.m2 import M2"),
        ("inference/training/a.py", "import ppl_models.autoencoders.vae as vae"),
        ("ppl_models/config.py", "from ppl_models import catalogue"),
        ("ppl_models/pages/a.py", "from ppl_models.commands.main import main"),
    ],
)
def test_an_import_that_leads_upwards_is_named(tmp_path, place, line):
    for module, path in modules(ROOT).items():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("" if module != "ppl_models.catalogue" else "PAPERS = {}")
    assert against(tmp_path) == []
    (tmp_path / place).write_text(line)
    (wrong,) = against(tmp_path)
    assert wrong.startswith(f"{place}:{line.count(chr(10)) + 1}: ") and " -> ppl_models" in wrong


FILES = [path for top in TOPS for path in sorted((ROOT / top).rglob("__init__.py"))]


def test_faces_give_type_checkers_the_names_they_give():
    seen = 0
    for path in FILES:
        tree = ast.parse(path.read_text())
        homes = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
        ]
        if not homes:
            continue
        package = next(m for m, p in modules(ROOT).items() if p == path)
        stub = {}
        (block,) = (node for node in tree.body if isinstance(node, ast.If))
        for node in block.body:
            assert isinstance(node, ast.ImportFrom) and node.module
            for name in node.names:
                assert name.asname == name.name  # else type checkers take it as private
                stub[name.name] = node.module.removeprefix(package).removeprefix(".")
        assert stub == homes[0], path
        assert list(homes[0]) == sorted(homes[0], key=str), path
        seen += 1
    assert seen == 7


def test_rooms_are_a_sentence_and_import_nothing():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1 or "_HOMES" in path.read_text(), path


def test_a_module_costs_itself():
    """A schedule, which imports nothing of ours, loads with its packages and no more."""
    script = (
        "import sys; import ppl_models.inference.objectives.schedule; "
        "print(*(m for m in sys.modules if m.startswith('ppl_models')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) <= 6, done.stdout


def test_names_are_told_apart():
    """Within inference no two modules share a name; files and functions stay short."""
    names = [p.stem for p in (ROOT / "inference").rglob("*.py") if p.stem != "__init__"]
    assert sorted(names) == sorted(set(names))
    for top, most in (*((top, 400) for top in TOPS), ("tests", 500)):
        for path in (ROOT / top).rglob("*.py"):
            most_of_it = max(500, most) if path.name == "__init__.py" else most  # faces are lists
            assert len(path.read_text().splitlines()) <= most_of_it, path
    for path in modules(ROOT).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                assert lines <= 60, f"{path}:{node.lineno} {node.name} has {lines} lines"
