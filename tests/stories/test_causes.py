"""A structural causal model with images, from a file to counterfactuals, their export and page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image
from numpy.testing import assert_allclose

from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference import plots
from ppl_models.inference.plots.caused_worlds import effects
from ppl_models.inference.posterior.export import load
from ppl_models.pages import report
from ppl_models.pages.causes import causes

CAUSES = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'causes.py'}:Causes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rings whose width follows b, and a class that is hidden in half of the rows."""
    path = tmp_path_factory.mktemp("causes")
    draw, count = np.random.default_rng(0), 60
    a = draw.normal(size=(count, 1))
    b = 0.8 * a + 0.5 * draw.normal(size=(count, 1))
    c = b - 0.5 * a + 0.4 * draw.normal(size=(count, 1))
    at = np.linspace(-1, 1, 6)
    ring = np.hypot(*np.meshgrid(at, at)) - (0.6 + 0.2 * b[:, :, None])
    x = np.exp(-((ring / 0.3) ** 2)) + 0.05 * draw.normal(size=(count, 6, 6))
    sites = {"x": x, "a": a, "b": b, "c": c}
    floats = {name: value.astype("float32") for name, value in sites.items()}
    np.savez(path / "rows.npz", **floats, k=draw.integers(0, 3, count))
    line = f"fit {CAUSES} --data {path / 'rows.npz'} --labelled 20 --epochs 1"
    assert main([*line.split(), "--out", str(path / "run"), "--draws", "20", "--quiet"]) == 0
    return path / "run"


def asked(folder, line, capsys):
    """What a line of the command says, and its code."""
    code = main([*line.format(folder).split(), "--pair", CAUSES])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_rows_of_the_command_are_those_of_the_pair(folder, tmp_path, capsys):
    """In their order, also where some have a label and others do not."""
    out = tmp_path / "values.npz"
    line = f"counterfactual {{}} --split train --rows 30 --set a=-1,2 --set k=1 --out {out} --json"
    code, said = asked(folder, line, capsys)
    assert code == 0 and json.loads(said)["columns"] == ["row", "-1, 1", "2, 1"]
    run = inference.load(folder, CAUSES)
    description = run.description
    table = data.remake(description["data"]).train
    assert len(list(table.batches(torch.arange(30)))) == 2
    seen = {name: value[:30].numpy() for name, value in table.sites.items()}
    ab, ac, bc = run.pair.slopes.detach().numpy()
    found = np.load(out)
    assert (found["k"] == 1).all()
    for place, a in enumerate((-1.0, 2.0)):
        b = seen["b"] + ab * (a - seen["a"])
        c = seen["c"] + ac * (a - seen["a"]) + bc * (b - seen["b"])
        assert_allclose(found["b"][:, place], b, atol=1e-5)
        assert_allclose(found["c"][:, place], c, atol=1e-5)
    known = table.observed["k"][:30].numpy()
    with torch.no_grad():
        parts = (torch.as_tensor(v) for v in (b, c, found["k"][:, 1], found["z"][:, 1]))
        own = (torch.as_tensor(seen[v]) for v in ("b", "c", "k"))
        moved = run.pair.decoded(*parts) - run.pair.decoded(
            *own, torch.as_tensor(found["z"][:, 1])
        )
    assert_allclose(found["x"][known, 1], (seen["x"] + moved.numpy())[known], atol=1e-4)


def test_draws_and_pictures(folder, tmp_path, capsys):
    out = tmp_path / "values.npz"
    assert (
        asked(folder, f"counterfactual {{}} --set b=0 --draws 3 --rows 4 --out {out}", capsys)[0]
        == 0
    )
    found = np.load(out)
    assert found["x"].shape == (3, 4, 1, 36) and len(np.unique(found["z"][:, 0, 0, 0])) == 3
    assert asked(folder, "counterfactual {} --set b=0,1 --rows 4", capsys)[0] == 0
    assert image.imread(folder / "counterfactual.png").std() > 0.1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("counterfactual {} --set q=1", "unknown site 'q': expected one of a, b, c, k, x, z"),
        ("counterfactual {} --set k=3", "--set is 'k=3', but 3 is none of the 3 classes"),
        ("counterfactual {} --set a=nan", "site 'a' is set to nan, expected finite numbers"),
        ("counterfactual {} --set a=1 --codes mean", "unknown flag '--codes'"),
        (
            "export {} --counterfactual a=1",
            "--counterfactual is 'a=1', expected 'NAME: SITE=VALUE",
        ),
        (
            "export {} --counterfactual low:a=",
            "--counterfactual is 'low:a=', expected 'NAME: SITE=",
        ),
        ("export {} --counterfactual low:a=1,a=2", "which gives a name or a site twice"),
        ("export {} --counterfactual low:q=1", "counterfactual 'low': unknown site 'q'"),
        (
            "export {} --method nuts --counterfactual low:a=1",
            "--counterfactual goes with --method",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(folder, capsys, line, words):
    code, said = asked(folder, line, capsys)
    assert code == 2 and words in said


def test_the_export_has_a_group_and_the_page_a_grid(folder, tmp_path):
    file = tmp_path / "posterior.nc"
    line = ["export", str(folder), "--pair", CAUSES, "--draws", "4", "--file", str(file)]
    assert main([*line, "--counterfactual", "low: a=-1, k=2", "--counterfactual", "b: b=0.5"]) == 0
    found = load(file)["counterfactual"]
    assert json.loads(found.attrs["do"]) == {"low": {"a": -1.0, "k": "2"}, "b": {"b": 0.5}}
    assert (found["k"].values[:, :, 0] == 2).all() and (found["b"].values[:, :, 1] == 0.5).all()

    text = "".join(causes(report.read(folder, CAUSES)))
    assert "change of b" in text and "what they would have been" in text and "<svg" not in text
    assert not list(causes(report.read(folder / "posterior.nc")))  # a file has no mechanisms
    run = inference.load(folder, CAUSES)
    idata = load(folder / "posterior.nc")
    told = effects(run.pair, idata, range(10))
    assert [cause for cause, _, _ in told] == ["a", "a", "b", "b", "c", "c"]
    a = idata.observed_data["a"].values
    change = np.quantile(a, 0.1) - a[:10].mean()
    assert told[0][2]["a"] == pytest.approx(change, rel=1e-4)
    assert told[0][2]["b"] == pytest.approx(change * run.pair.slopes[0].item(), rel=1e-4)
    assert told[4][2]["a"] == 0 and told[4][2]["x"] > 0
    ax = plots.counterfactuals(run.pair, idata, rows=[0, 2])
    assert ax.get_xticklabels()[0].get_text() == "row"
    assert len(ax.get_xticks()) == 7 and len(ax.get_yticks()) == 2


def test_a_class_as_a_cause(folder, monkeypatch):
    run = inference.load(folder, CAUSES)
    idata = load(folder / "posterior.nc")
    monkeypatch.setattr(
        run.pair, "card", type(run.pair.card)(**{**vars(run.pair.card), "causes": ("k", "z")})
    )
    told = effects(run.pair, idata, range(5))
    assert [(cause, words) for cause, words, _ in told] == [
        ("k", "0"), ("k", "1"), ("k", "2"), ("z", "10 %"), ("z", "90 %"),
    ]  # fmt: skip
