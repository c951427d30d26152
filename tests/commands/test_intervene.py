"""``ppl-models intervene`` and ``transfer``: what they write, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matplotlib import image

from ppl_models import data, inference
from ppl_models.commands.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "m2"
    line = f"fit m2 --data digits --train 200 --validation 20 --test 30 --labelled 30 --out {path}"
    line += " --hidden 8 --latent 2 --epochs 2 --draws 30 --quiet"
    assert main(line.split()) == 0
    return path


def test_values_are_those_of_the_pair(folder, tmp_path, capsys):
    out = tmp_path / "values.npz"
    line = f"intervene {folder} --set y=3,7 --set z=0.5 --rows 4 --seed 5 --out {out} --json"
    assert main(line.split()) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(out), "rows": 4, "columns": ["row", "3, 0.5", "7, 0.5"]}
    run = inference.load(folder)
    found = np.load(out)
    for place, label in enumerate((3, 7)):
        with torch.no_grad():
            y = torch.full((4,), label)
            mean = run.pair.decoder(y=y, z=torch.full((4, 2), 0.5)).sigmoid()
        assert (found["y"][:, place] == label).all()
        assert np.allclose(found["x"][:, place], mean, atol=1e-6)


@pytest.mark.parametrize("line", ["intervene {} --set y=3,7", "transfer {} z"])
def test_at_the_mean_no_seed_matters_and_draws_come_first(folder, tmp_path, line):
    def made(*more):
        out = tmp_path / "values.npz"
        assert main([*line.format(folder).split(), "--rows", "3", "--out", str(out), *more]) == 0
        return dict(np.load(out))

    at_mean, again = made("--codes", "mean"), made("--codes", "mean", "--seed", "4")
    drawn = made("--draws", "5")
    assert not np.array_equal(made()["z"], made("--seed", "4")["z"])
    run, dataset = (
        inference.load(folder),
        data.load("digits", train=200, validation=20, test=30),
    )
    (batch,) = dataset.test.only("x").batches(torch.arange(3))
    with torch.no_grad():
        y = run.pair.guide.factor("y", batch).probs.argmax(-1)
        z = run.pair.guide.factor("z", {**batch, "y": y}).mean
    columns = at_mean["z"].shape[1]
    wanted = z[:, None] if "set" in line else z[None]
    assert np.allclose(at_mean["z"], wanted.expand(3, columns, 2), atol=1e-6)
    for name, value in at_mean.items():
        assert np.array_equal(value, again[name])
        assert drawn[name].shape == (5, *value.shape)
    assert len(np.unique(drawn["z"][:, 0, 0, 0])) == 5


def test_draws_stand_side_by_side(folder, tmp_path, capsys):
    widths = []
    for more in ("", "--draws 3"):
        out = tmp_path / "picture.png"
        line = f"intervene {folder} --set y=1,2 --rows 2 {more} --out {out} --json"
        assert main(line.split()) == 0
        assert json.loads(capsys.readouterr().out)["columns"] == ["row", "1", "2"]
        widths.append(image.imread(out).shape[1])
    assert widths[1] > 2 * widths[0]


def test_a_code_goes_over(folder, tmp_path, capsys):
    out = tmp_path / "values.npz"
    assert main(f"transfer {folder} z y --rows 3 --out {out}".split()) == 0
    assert capsys.readouterr().out.strip() == str(out)
    z, y = (np.load(out)[name] for name in ("z", "y"))
    assert z.shape == (3, 3, 2) and y.shape == (3, 3)
    assert (y == y[:1]).all()  # a column has one source


def test_pictures_hold_a_column_per_value(folder, capsys):
    assert main(f"intervene {folder} --set y=1,2,3 --rows 2".split()) == 0
    picture = image.imread(folder / "intervention.png")
    assert picture.ndim == 3 and picture.std() > 0.1
    assert not list(folder.glob("*.tmp*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--set y=a", "--set is 'y=a', expected numbers, or one of the classes 0, 1"),
        ("--set y=10", "--set is 'y=10', but 10 is none of the 10 classes 0, 1"),
        ("--set y=1.5", "--set is 'y=1.5', but 1.5 is none of the 10 classes 0, 1"),
        ("--set y=-1", "nor a number of one (0 to 9)"),
        ("--set y=nan", "--set is 'y=nan', but nan is none of the 10 classes 0, 1"),
        ("--set z=nan", "site 'z' is set to nan, expected finite numbers"),
        ("--set x=2", "site 'x' is set to 2, expected numbers from 0 to 1"),
        ("--set y", "--set is 'y', expected SITE=VALUE"),
        ("--set q=1", "unknown site 'q': expected one of x, y, z"),
        ("--set y=1 --rows 31", "--rows is 31, expected 1 to 30"),
        ("--set y=1 --draws 0", "--draws"),
        ("--set y=1 --draws 4 --codes mean", "--draws is 4, but with --codes mean nothing is"),
        ("--set y=1 --codes mode", "invalid choice: 'mode'"),
    ],
)
def test_refused_before_anything_is_written(folder, tmp_path, capsys, line, message):
    out = tmp_path / "no.png"
    assert main([*f"intervene {folder} {line} --out {out}".split()]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
