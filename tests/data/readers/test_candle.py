"""The published files of CANDLE, made up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from worlds import candle_files

from ppl_models import data
from ppl_models.data.readers.candle import candle, picture

SCENES = [(4, 2, 0, 5, 15, 1), (1, 0, 1, 3, 2, 0), (0, 4, 2, 0, 7, 2)]


def test_a_folder_is_the_cells_that_it_has_pictures_of(tmp_path):
    candle_files.write(tmp_path, SCENES)
    made, like = data.factor_data("candle", root=str(tmp_path)), data.factor_data("candle_like")
    assert made.values == like.values
    assert len(made) == 3
    assert made.classes(made.cells).tolist() == sorted(map(list, SCENES))
    found = made.sites(np.array(SCENES), np.random.default_rng(0))
    assert found["x"].shape == (3, 64, 64, 3)
    assert found["x"].dtype == np.uint8
    # The middles of the squares, which Lanczos' filter leaves alone: 16 columns and 21 lines each.
    middles = [(10 + 21 * (k // 4), 8 + 16 * (k % 4)) for k in range(6)]
    seen = np.stack([found["x"][:, line, column] for line, column in middles], 1)
    assert (seen[..., 1] == 15 * np.array(SCENES)).all()
    assert (seen[..., (0, 2)] == 0).all()
    box = [40 / 320, 1 - 120 / 240, 100 / 320, 1 - 60 / 240]
    assert found["box"] == pytest.approx(np.array([box] * 3))
    with pytest.raises(ValueError, match="CANDLE has no picture of cell 0, expected one of its"):
        made.sites(np.zeros((1, 6), int), np.random.default_rng(0))


def test_it_loads_as_candle_like_does(tmp_path):
    candle_files.write(tmp_path, SCENES)
    rows = data.load("candle", root=str(tmp_path), train=1, validation=1, test=1)
    for table in (rows.train, rows.validation, rows.test):
        (classes,) = [
            one
            for one in SCENES
            if all(
                int(table.sites[name][0]) == value
                for name, value in zip(table.classes, one, strict=True)
            )
        ]
        assert table.sites["x"].shape == (1, 64 * 64 * 3)
        assert float(table.sites["x"][0, 3 * (64 * 10 + 8) + 1]) == pytest.approx(
            15 * classes[0] / 255
        )
    assert len(data.sources("candle", root=str(tmp_path))) == 6
    assert rows.train.classes["scene"][15] == "garden"


def test_a_box_ends_where_the_picture_ends(tmp_path):
    told = candle_files.scene(SCENES[0])
    told["objects"]["Thing_0"]["bounds"] = [[-20, -3], [330, 90]]
    candle_files.write(tmp_path, SCENES[:1])
    (tmp_path / "0.json").write_text(json.dumps(told))
    found = candle(str(tmp_path)).sites(np.array(SCENES[:1]), np.random.default_rng(0))
    assert found["box"][0].tolist() == [0, 1 - 90 / 240, 1, 1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d | {"scene": "moon"}, r"0\.json: cannot be read, expected the json .*moon"),
        (lambda d: d | {"objects": {}}, "it has 0 objects, expected one"),
        (lambda d: {"scene": "hall"}, r"0\.json: cannot be read"),
        (lambda d: [d], r"0\.json: cannot be read"),
    ],
)
def test_a_json_that_tells_something_else_is_refused(tmp_path, change, line):
    candle_files.write(tmp_path, SCENES)
    told = change(candle_files.scene(SCENES[0]))
    (tmp_path / "0.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=line) as error:
        candle(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 3),
        ("rotation", False),
        ("color", "green"),
        ("size", "2"),
        ("bounds", [[9, 9], [1, 12]]),
    ],
)
def test_an_object_of_another_kind_is_refused(tmp_path, key, value):
    candle_files.write(tmp_path, SCENES)
    told = candle_files.scene(SCENES[0])
    told["objects"]["Thing_0"][key] = value
    (tmp_path / "0.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"0\.json: cannot be read, expected the json of a scene"):
        candle(str(tmp_path))


def test_pictures_are_there_once_whole_and_of_the_right_size(tmp_path):
    candle_files.write(tmp_path, [*SCENES, SCENES[0]])
    with pytest.raises(ValueError, match=r"3\.json: shows what 0\.png shows, expected one"):
        candle(str(tmp_path))
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3\.json: has no picture beside it, expected 3\.png"):
        candle(str(tmp_path))
    path = tmp_path / "0.png"
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole + b"more", whole[:200] + b"?" + whole[201:]):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"0\.png: cannot be read, expected a png of 320 x 240"
        ):
            picture(path)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="it is 9 x 9"):
        picture(path)
    (tmp_path / "1.json").write_text(" " * 70_000)
    with pytest.raises(ValueError, match=r"1\.json: cannot be read.*it has 70000 bytes"):
        candle(str(tmp_path))
