"""Reports and checks of files by other programs, and of names that mean something to figures."""

from __future__ import annotations

import base64
import re
import shutil
from xml.etree import ElementTree

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from worlds.linear import draw, linear

from ppl_models.commands.main import main
from ppl_models.data import Table
from ppl_models.inference import plots
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import as_inference_data, groups_of

RNG = np.random.default_rng(0)
DRAWS = RNG.normal(size=(2, 300, 4))
SHAPE = ("chain", "draw")
NAMES = {
    "formulas": ("$\\frac{1}{$", "$$", "a $x$ b $", "\\$_{"),
    "controls": ("\x1b[31m", "a\nb\r", "\x01\x1f", "\x7f\x9f"),
    "no characters": ("\ufffe", "\uffff", "\ufdd0", "\U0001ffff"),
    "long": ("x" * 5000, "y " * 3000, "中" * 500, "z"),
    "right to left": ("\u202eabc", "\u2066d", "שלום\u200f", "\u061ce"),
    "markup": ("<script>alert(1)</script>", "]]>", "--><svg>", "&amp;\"'"),
    "letters": ("🎉", "👩\u200d🔬", "ß", "_hidden"),
}


def posterior_of_names(names, **options):
    pair = linear()
    x, y = draw(pair, 30)
    rows = Table("w/test", {"x": x, "y": y}, classes={"y": names}, numbers=torch.arange(30))
    return export.posterior(pair, rows, draws=40, **options)


def svgs(page):
    for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        yield base64.b64decode(data).decode()


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_classes_do_not_break_a_page(kind, tmp_path):
    path = tmp_path / "p.nc"
    names = NAMES[kind]
    idata = posterior_of_names(names, path=path)
    assert idata.variational["y_class"].values.tolist() == list(names)
    assert main(["report", str(path), "--simulations", "0"]) == 0
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    found = list(svgs(page))
    assert len(found) >= 4
    for text in found:
        ElementTree.fromstring(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f"
                         "\ufdd0-\ufdef\ufffe\uffff]", page)  # fmt: skip
    assert "<script>" not in page


@pytest.mark.filterwarnings("ignore:Glyph")  # no font here has them
@pytest.mark.parametrize("kind", NAMES)
def test_names_of_classes_do_not_break_a_plot(kind, tmp_path):
    ax = plots.confusion(posterior_of_names(NAMES[kind]), ax=Figure().subplots())
    ax.figure.savefig(tmp_path / "p.svg")
    ElementTree.parse(tmp_path / "p.svg")


def plain(**groups):
    return {name: xr.Dataset(values) for name, values in groups.items()}


MU = {"mu": (SHAPE, DRAWS[..., 0]), "theta": ((*SHAPE, "school"), DRAWS)}
JUDGED = "fewest effective draws"
NOTHING = "nothing to check in groups"
OTHERS = {
    "chains and draws": (plain(posterior=MU), JUDGED),
    "one chain": (plain(posterior={"mu": (SHAPE, DRAWS[:1, :, 0])}), JUDGED),
    "few draws": (plain(posterior={"mu": (SHAPE, DRAWS[:, :2, 0])}), JUDGED),
    "constant": (plain(posterior={"mu": (SHAPE, 0 * DRAWS[..., 0])}), JUDGED),
    "not finite": (plain(posterior={"mu": (SHAPE, np.nan * DRAWS[..., 0])}), "600 of 600 in"),
    "log-likelihoods": (plain(posterior=MU, log_likelihood={"x": ((*SHAPE, "n"), DRAWS)},
                              observed_data={"x": ("n", DRAWS[0, 0])}), JUDGED),
    "statistics": (plain(posterior=MU, sample_stats={"diverging": (SHAPE, DRAWS[..., 0] > 3),
                                                     "tree": (SHAPE, np.nan * DRAWS[..., 0])}),
                   JUDGED),
    "predictions": (plain(posterior=MU, posterior_predictive={"x": ((*SHAPE, "n"), DRAWS)},
                          observed_data={"x": ("n", DRAWS[0, 0])}), JUDGED),
    "prior alone": (plain(prior=MU), NOTHING),
    "data alone": (plain(observed_data={"x": ("n", DRAWS[0, 0])}), NOTHING),
    "no chain": (plain(posterior={"mu": ("draw", DRAWS[0, :, 0])}), NOTHING),
    "other dims": (plain(posterior={"mu": (("chains", "draws"), DRAWS[..., 0])}), NOTHING),
    "text": (plain(posterior={"mu": (SHAPE, [["a", "b"]])}), NOTHING),
    "integers": (plain(posterior={"k": (SHAPE, (DRAWS[..., 0] > 0).astype(int))}), NOTHING),
    "no draws": (plain(posterior={"mu": (SHAPE, np.zeros((2, 0)))}), NOTHING),
    "groups of our names": (
        plain(posterior={"z": ((*SHAPE, "datum"), DRAWS)}, diagnostics={"khat": ("row", [1.0])},
              training={"loss": ("t", [1.0, 2.0])},
              variational={"y_probs": ("datum", DRAWS[0, 0])},
              observed_data={"x": ("datum", DRAWS[0, 0])}, constant_data={"y_true": ("q", [1, 2])},
              posterior_predictive={"x": ("row", DRAWS[0, 0])}), JUDGED),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_programs(kind, tmp_path, capsys):
    groups, said = OTHERS[kind]
    path = tmp_path / "theirs.nc"
    as_inference_data(groups, {"note": "by hand"}).to_netcdf(str(path), engine="h5netcdf")
    assert main(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text()
    assert "by hand" in page and "Written by ppl-models" in page
    for group, dataset in groups.items():
        assert all(f"<td>{group}</td><td>{name}</td>" in page for name in dataset.data_vars)
    assert ("<h2>Chains</h2>" in page) is (said is not NOTHING)
    capsys.readouterr()
    code = main(["check", str(path)])
    out, err = capsys.readouterr()
    assert said in (err if said is NOTHING else out)
    if said is NOTHING:
        assert code == 2
        assert err.startswith(f"ppl-models: error: {path}: ") and err.count("\n") == 1
    shutil.copy(path, tmp_path / "again.nc")
    assert main(["compare", str(path), str(tmp_path / "again.nc")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(path.parent) in err


def test_examples_of_arviz(tmp_path, capsys):
    path = tmp_path / "schools.nc"
    az.load_arviz_data("non_centered_eight").to_netcdf(str(path), engine="h5netcdf")
    assert main(["report", str(path)]) == 0
    assert "divergent transitions" in path.with_suffix(".html").read_text()
    assert main(["check", str(path)]) in (0, 3)
    assert "0 numbers are not finite" in capsys.readouterr().out


def test_chains_that_mixed_are_trusted(tmp_path, capsys):
    path = tmp_path / "p.nc"
    draws = RNG.normal(size=(4, 1000))
    as_inference_data(plain(posterior={"mu": (SHAPE, draws)}), {}).to_netcdf(
        str(path), engine="h5netcdf"
    )
    assert main(["check", str(path)]) == 0
    draws[0] += 3
    as_inference_data(plain(posterior={"mu": (SHAPE, draws)}), {}).to_netcdf(
        str(path), engine="h5netcdf"
    )
    assert main(["check", str(path)]) == 3


@pytest.mark.parametrize(
    ("attrs", "drop"),
    [
        ({"card_json": "{"}, None), ({"card_json": "[1, 2]"}, None), ({"config_json": "x"}, None),
        ({"card_json": "{}"}, None), ({"x_shape": [7, 7]}, None), ({}, "sample_stats"),
        ({}, "posterior"), ({"card_json": 3.0}, None),
    ],
)  # fmt: skip
def test_our_files_that_lack_something_are_told_in_one_line(attrs, drop, tmp_path, capsys):
    idata = posterior_of_names(NAMES["letters"])
    kept = {name: group for name, group in groups_of(idata).items() if name != drop}
    idata = as_inference_data(kept, {**idata.attrs, **attrs})
    path = tmp_path / "p.nc"
    export.save(idata, path)
    code = main(["report", str(path), "--simulations", "0"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1 and err.startswith(f"ppl-models: error: {path}")
    assert not path.with_suffix(".html").exists()
