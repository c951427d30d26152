"""``ppl-models data``: what it prints and writes, and one-line errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ppl_models import data
from ppl_models.commands.main import main


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run(capsys, line):
    code = main(line.split())
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys, line):
    code, out, err = run(capsys, f"{line} --json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_list_and_show(capsys):
    assert list(as_json(capsys, "data list")) == data.names()
    code, out, _ = run(capsys, "data list")
    assert code == 0 and len(out.splitlines()) == len(data.names())
    shown = as_json(capsys, "data show digits")
    assert shown["options"] == {
        "train": 1197, "validation": 200, "test": 400, "labelled": None, "seed": 0,
        "ink": None,
    }  # fmt: skip
    assert "64 pixels" in shown["about"]
    code, out, _ = run(capsys, "data show digits")
    assert out.startswith("digits\n\nSites x (64 pixels, 0 white to 1 black) and y (the digit).\n")
    assert "\n--test        400   Test rows.\n" in out
    code, out, _ = run(capsys, "data show cells.h5ad")  # there need be no such file
    assert "\n--layer " in out and "--path" not in out


def test_build_is_load_and_is_kept(capsys, tmp_path):
    line = "data build digits --seed 3 --labelled 50"
    built = as_json(capsys, line)
    expected = data.load("digits", seed=3, labelled=50)
    assert built["digest"] == expected.recipe["digest"]
    assert (built["train"], built["test"]) == (1197, 400)
    found = data.open(built["file"])
    assert int(found.train.observed["y"].sum()) == 50
    assert found.recipe == expected.recipe
    assert as_json(capsys, line) == built
    assert len(list((tmp_path / "built").iterdir())) == 1
    assert as_json(capsys, "data build digits --seed 4 --labelled 50")["file"] != built["file"]
    own = as_json(capsys, "data build digits --out own.h5 --compress")
    assert own["file"] == "own.h5"
    assert data.load("own.h5").train.counts == data.load("digits").train.counts


def test_files_of_one_name_are_told_apart(capsys, tmp_path):
    for folder, pixel in (("a", 0.25), ("b", 0.75)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "x.npz", x=np.full((20, 3), pixel), y=np.arange(20) % 2)
    built = [as_json(capsys, f"data build {folder}/x.npz")["file"] for folder in ("a", "b")]
    assert [float(data.open(file).train.sites["x"][0][0]) for file in built] == [0.25, 0.75]
    np.savez(tmp_path / "a" / "x.npz", x=np.full((20, 3), 0.5), y=np.arange(20) % 2)
    again = as_json(capsys, "data build a/x.npz")["file"]
    assert float(data.open(again).train.sites["x"][0][0]) == 0.5


def test_a_whole_grid(capsys):
    built = as_json(capsys, "data build mini_dsprites --whole --out mini.h5")
    assert built["train"] + built["validation"] + built["test"] == 5760
    made = data.open("mini.h5")
    assert made.train.sites["x"].source.encoding == "bits"
    cells = np.concatenate([t.numbers for t in (made.train, made.validation, made.test)])
    assert np.array_equal(np.sort(cells), np.arange(5760))


def test_preview(capsys):
    report = as_json(capsys, "data preview digits --labelled 50 --images 24")
    assert report["x"].startswith("1197 rows of (8, 8): 0 to 1, mean 0.3")
    assert report["y"] == "50 rows: " + ", ".join(f"{c} 5" for c in range(10))
    with Image.open(report["contact sheet"]) as image:
        assert image.size == (2 * (12 * 10 + 2), 2 * (2 * 10 + 2))
        pixels = np.asarray(image.convert("L"))
    first = data.load("digits", labelled=50).train.sites["x"][0].reshape(8, 8)
    assert np.array_equal(pixels[4:20:2, 4:20:2], np.rint(255 * first.numpy()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data", "data needs an action, one of list, show, build, preview"),
        ("data shw", "unknown action 'shw': did you mean 'show'"),
        ("data build digit", "unknown data set 'digit': did you mean 'digits'"),
        ("data build digits --sed 3", "unknown flag '--sed': did you mean '--seed'"),
        ("data build digits --labelled 3", "labelled is 3, expected at least one row per class"),
        ("data build digits --whole", "no factors"),
        ("data build dsprites_official", "put dsprites_ndarray"),
        ("data preview none.h5", "none.h5: no such file"),
        ("data preview digits --images 0", "--images: expected a whole number above 0"),
        ("data show", "NAME"),
    ],
)
def test_errors_in_one_line(capsys, line, words, tmp_path):
    code, out, err = run(capsys, line)
    assert (code, out) == (2, "")
    assert err.startswith("ppl-models: error: ") and err.count("\n") == 1
    assert words in err
    assert not list(tmp_path.rglob("*.h5"))
