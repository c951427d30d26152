"""The catalogue: what is in it, how pairs are found, sized and refused; their docs pages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ppl_models as zoo
from ppl_models import catalogue, data
from ppl_models.pages import index, methods, reproduction
from ppl_models.pages.describe import describe, page, write
from ppl_models.pages.ideas import IDEAS
from ppl_models.pages.metric_papers import METRIC_PAPERS
from ppl_models.semisupervised.m2 import M2

ROOT = Path(__file__).parents[2]
ROOMS = {"parts", "pages", "commands", "testing", "study"}  # that hold no paper
FOLDERS = {p.parent for p in (ROOT / "ppl_models").glob("*/__init__.py")} - {
    ROOT / "ppl_models" / room for room in ROOMS
}
PAGES = {"index.md", *(f"{name}.md" for name in (*catalogue.PAPERS, *METRIC_PAPERS))}
SMALL = {"hidden": (4,), "latent": 2}


def test_the_catalogue_is_the_papers_folders():
    found = {
        f"ppl_models.{path.parent.name}.{path.stem}"
        for folder in FOLDERS
        for path in folder.glob("*.py")
        if path.stem != "__init__"
    }
    listed = [place.split(":")[0] for place in catalogue.PAPERS.values()]
    assert sorted(listed) == sorted(found)
    for name in catalogue.PAPERS:
        assert catalogue.get(name).card.name == name


def test_names_are_read_without_importing_papers_or_torch():
    code = (
        "import sys, ppl_models; assert 'torch' not in sys.modules; ppl_models.names();"
        "print(sorted(m for m in sys.modules if m.startswith('ppl_models.semisupervised')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m1m3", "unknown paper 'm1m3': did you mean 'm1m2'\\? expected one of .*m1, "),
        ("vea", "did you mean 'vae'"),
        ("zzzz", "unknown paper 'zzzz': expected one of"),
        ("ppl_models.nowhere:M2", "cannot load the pair 'ppl_models.nowhere:M2'.*nowhere"),
        ("ppl_models.semisupervised.m2:M3", "cannot load.*M3"),
        ("nowhere.py:M2", "cannot load the pair 'nowhere.py:M2'"),
        ("ppl_models.batch:Batch", "is no Pair, expected a subclass"),
    ],
)
def test_unknown_pairs_are_errors(name, words):
    with pytest.raises(ValueError, match=words):
        zoo.build(name)


def test_a_class_is_found_by_module_and_by_file(tmp_path):
    assert catalogue.get("ppl_models.semisupervised.m2:M2") is M2
    path = tmp_path / "mine.py"
    path.write_text("from ppl_models.semisupervised.m2 import M2\nclass Mine(M2):\n    pass\n")
    pair = zoo.build(f"{path}:Mine", **SMALL)
    assert isinstance(pair, M2)
    assert type(pair).__name__ == "Mine"
    assert pair.source == f"{path}:Mine"


def test_registered_pairs_are_in_the_catalogue(monkeypatch):
    monkeypatch.setattr(catalogue, "_own", {})

    @zoo.register("mine")
    class Mine(M2):
        pass

    assert "mine" in zoo.names()
    assert isinstance(zoo.build("mine", **SMALL), Mine)
    with pytest.raises(ValueError, match=r"'m2' is taken by .*m2:M2"):
        zoo.register("m2")


def test_sizes_come_from_the_data_unless_they_are_set():
    data = SimpleNamespace(sizes={"x": 12, "y": 3})
    pair = zoo.build("m2", data, **SMALL)
    assert (pair.config.data_dim, pair.config.classes) == (12, 3)
    assert zoo.build("m2", data, classes=7, **SMALL).config.classes == 7
    assert zoo.build("m2", **SMALL).config.data_dim == 784
    with pytest.raises(ValueError, match=r"m2 needs the site 'y', but the data have \['x'\]"):
        zoo.build("m2", SimpleNamespace(sizes={"x": 12}), **SMALL)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"laten": 3}, "unknown setting of m2 'laten': did you mean 'latent'"),
        ({"latent": 0}, "latent is 0, expected at least 1"),
        ({"hidden": (5, 0)}, "hidden is 0, expected at least 1"),
        ({"classes": 1}, "classes is 1, expected at least 2"),
        ({"hidden": 128}, "hidden is 128, expected a tuple such as"),
        ({"hidden": (5, "a")}, "hidden is 'a', expected a whole number"),
        ({"latent": 2.5}, "latent is 2.5, expected a whole number"),
        ({"latent": True}, "latent is True, expected a whole number"),
        ({"alpha": "much"}, "alpha is 'much', expected a number"),
        ({"likelihood": 3}, "likelihood is 3, expected a name"),
        ({"likelihood": "bernouli"}, "unknown likelihood 'bernouli': did you mean 'bernoulli'"),
        ({"alpha": float("nan")}, "alpha is nan"),
    ],
)
def test_settings_that_do_not_fit_are_errors(settings, words):
    with pytest.raises(ValueError, match=words):
        zoo.build("m2", **settings)


def test_seeds_decide_the_weights_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = (zoo.build("m2", seed=s, **SMALL).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not any(torch.equal(a[n], c[n]) for n in a)


# ---- docs --------------------------------------------------------------------------------


def test_a_description_holds_card_config_and_stages():
    d = describe("m1")
    assert json.loads(json.dumps(d)) == d
    assert d["about"].startswith("M1: ")
    assert [line.split()[0] for line in d["story"].splitlines()] == [
        "Story", "Guide", "Paper", "Shapes",
    ]  # fmt: skip
    assert {s["name"]: s["default"] for s in d["config"]}["hidden"] == [500, 500]
    assert [s["name"] for s in d["stages"]] == ["vae", "classifier"]
    text = page("m1")
    for word in (*d["data"].values(), *d["latents"].values(), *d["departs"], d["title"]):
        assert word in text
    for s in d["config"]:
        assert f"| `{s['name']}` |" in text


def test_every_paper_tells_its_problem_and_its_idea():
    assert set(IDEAS) == set(catalogue.PAPERS)
    assert all(text.endswith((".", "?")) for told in IDEAS.values() for text in told)


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.long)])
def test_committed_pages_are_up_to_date(tmp_path, monkeypatch, traced):
    """What compiles is traced by the long test alone: tests of compiled steps hold it, too."""
    if not traced:
        committed = (ROOT / "docs" / "methods.md").read_text()
        told = re.findall(r"^\| `(\w+)` \|.*\| yes \|$", committed, re.MULTILINE)
        monkeypatch.setattr(methods, "_compiles", lambda name, row: name in told)
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "reproduction.json", tmp_path)
    write(docs)
    for path in ("REPRODUCTION.md", "docs/methods.md", *(f"docs/papers/{n}" for n in PAGES)):
        stale = f"{path}: run python -m ppl_models.pages.describe docs/"
        assert (ROOT / path).read_text() == (tmp_path / path).read_text(), stale
    for folder in (docs, ROOT / "docs"):
        assert {p.name for p in (folder / "papers").iterdir()} == PAGES


def test_the_index_of_lists_is_that_of_cards_and_loaders():
    made = index.made(reproduction.read(ROOT / "reproduction.json"))
    assert index.read() == made, "run: python -m ppl_models.pages.describe docs/"
    assert sorted(made["data"]) == data.names() and set(made["papers"]) == set(catalogue.PAPERS)
    assert made["papers"]["m2"]["family"] == "semisupervised"


def test_pictures_that_cards_tell_of_are_there():
    images = {path.stem for path in (ROOT / "docs" / "images").glob("*.png")}
    told = {name for name in catalogue.PAPERS if catalogue.get(name).card.picture}
    told |= {name for name, paper in METRIC_PAPERS.items() if paper.picture}
    told |= set(reproduction.figures(reproduction.read(ROOT / "reproduction.json")))
    assert told <= images, f"no docs/images/*.png for {sorted(told - images)}"


def test_the_docs_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist, expected the docs' folder"):
        write(tmp_path / "nowhere")
