"""Options of simulated worlds: kept in recipes, checked in one line, flags of the shell."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.commands.flags import Parser, add_loader, chosen
from ppl_models.commands.main import main
from ppl_models.data import catalogue
from ppl_models.data.render import world_options

FEW = {"train": 24, "validation": 4, "test": 8}
# What a set needs to be small, and three worlds of it.
WORLDS = {
    "ball_in_boxes": (
        {**FEW, "side": 8},
        {"noise": 0.5, "radius": 2.5},
        {"intervened": 0.9},
        {"sequences": 1},
    ),
    "blob": (FEW, {"width": 0.7}, {"width": 2.0}, {"width": 3}),
    "boxhead": (
        {"train": 4, "validation": 2, "test": 3},
        {"azimuth": (0.0, 10.0)},
        {"scale": (0.8, 2.0)},
        {"azimuth": (-60.0, 60.0), "scale": (0.5, 0.6)},
    ),
    "bright_digits": (
        {"train": 6, "validation": 2, "test": 4, "source": "digits"},
        {"digits": (8, 3), "noise": 0.5},
        {"correlation": 0.0, "intensity_effect": -1.0},
        {"test_correlation": 1.0},
    ),
    "candle_like": (
        FEW,
        {"confounded": False},
        {"scenes_seed": 1},
        {"confounded": False, "scenes_seed": 2},
    ),
    "captions": (FEW, {"noise": 0.3}, {"network_seed": 3}, {"noise": 0.0, "network_seed": 4}),
    "circle": (
        FEW,
        {"angle": (0.0, 1.0)},
        {"noise": 0.0, "network_seed": 3},
        {"network_seed": 4},
    ),
    "color_dsprites": (
        FEW,
        {"brightness": (0.0, 1.0)},
        {"brightness": (1.0, 1.0)},
        {"brightness": (0.1, 0.3)},
    ),
    "entangled_vectors": (
        FEW,
        {"dims": (1, 1, 3), "noise": 0.1},
        {"intervened": 0.5, "sequences": 2},
        {"network_seed": 3},
    ),
    "concepts": (
        {"source": "strokes"},
        {"size": (2, 5)},
        {"test_size": 3, "validation": 0.2},
        {"binary": False},
    ),
    "correlated_digits": (
        {**FEW, "source": "digits"},
        {"test_correlation": -0.9},
        {"occlusion": 0.0, "side": 28},
        {"digits": (0, 1), "occlusion": 0.8},
    ),
    "faces": (
        FEW,
        {"people_seed": 3, "azimuth": (0.0, 0.5)},
        {"elevation": (0.2, 0.2), "relief": 3.0},
        {"frequency": (0.5, 0.3, 0.2), "identities": 3},
    ),
    "few_shot": (
        {**FEW, "source": "strokes", "hands": 5},
        {"hands_seed": 3, "press": (0.1, 0.1)},
        {"hands": 10, "lean": (0.0, 0.1)},
        {"stretch": (0.4, 0.6)},
    ),
    "glyphs": (
        {**FEW, "labelled": 12},
        {"frequency": (0.9, 0.5, 0.1)},
        {"least": 0.8},
        {"frequency": (0.0, 1.0, 0.5), "least": 1.0},
    ),
    "ica_segments": (
        {**FEW, "labelled": 4, "segments": 4},
        {"offset": 5.0, "scale": (0.3, 1.0), "sources": 2},
        {"family": "laplace", "segments": 6, "labelled": 6, "noise": 0.1},
        {"layers": 2, "reach": 3.0, "percentile": 100.0, "network_seed": 3},
    ),
    "interventional_pong": (
        {**FEW, "side": 8},
        {"noise": 0.0, "speed": 1.0},
        {"intervened": 0.5},
        {"sequences": 3},
    ),
    "moons": (
        FEW,
        {"border": 0.0, "flip": 0.5},
        {"frequency": (0.75, 0.25)},
        {"border": -2.0, "frequency": (0.4, 0.6), "flip": 1.0},
    ),
    "morpho_mnist": (
        {"train": 6, "validation": 2, "test": 3, "source": "digits"},
        {"intensity_effect": -2.0},
        {"noise": 0.0, "intensity_effect": 0.0},
        {"slanted": True, "slant_effect": -5.0},
    ),
    "multi_digits": (
        {**FEW, "source": "digits"},
        {"side": 28, "most": 1},
        {"scale": (1.0, 1.0), "most": 5},
        {"frequency": (0.5, 0.25, 0.125, 0.125)},
    ),
    "noisy_dsprites": (FEW, {"noise": 0.0}, {"noise": 0.2}, {"noise": 0.9}),
    "noisy_images": (
        {**FEW, "noise": "signal"},
        {"floor": 0.3},
        {"floor": 0.0},
        {"picture": "gratings", "cycles": 2.0},
    ),
    "outliers": (
        {**FEW, "labelled": None},
        {"errors": ("frame", "row"), "width": 2},
        {"shapes": ("disk",), "shift": -3},
        {"errors": ("square",), "dirty": 0.5},
    ),
    "paired_digits": (
        FEW,
        {"noise": 0.3, "angle": (0.0, 0.0)},
        {"scale": (0.5, 0.6), "inverted": 0.0},
        {"width": (0.02, 0.02), "inverted": 1.0},
    ),
    "patch_digits": (
        FEW,
        {"train_patch": 0.75, "patch": 0.5},
        {"corner": "bottom_left", "width": 1},
        {"brightness": 0.5, "train_patch": "random", "patch": 0},
    ),
    "pendulum": (
        {"side": 4, "step": 3.0, "validation": 50},
        {"pendulum_angle": (-60.0, 0.0), "light_angle": (30.0, 60.0)},
        {"step": 2.0, "shortest": 0.5},
        {"noise": 0.5},
    ),
    "pendulum_dear": (
        {"side": 4, "step": 2.0, "validation": 50},
        {"pendulum_angle": (-40.0, 40.0)},
        {"light_angle": (60.0, 120.0), "step": 4.0, "validation": 20},
        {"shortest": 6.0},
    ),
    "pendulum_vectors": (
        FEW,
        {"edges": (0.0, 1.0, 0.0, 1.0)},
        {"noise": 0.5, "network_seed": 3},
        {"edges": (2.0, -2.0, 1.0, 0.0), "noise": 0.0},
    ),
    "perturb_sim": (
        {"perturbations": 5, "cells": 12, "latents": 3, "genes": 6, "validation": 6, "test": 6},
        {"depth": 10.0, "targets": (2, 2)},
        {"world_seed": 3, "shift": 2.0},
        {"world_seed": 4, "shift_spread": 0.0},
    ),
    "spectra": (
        {"labelled": 10, "unlabelled": 6, "validation": 3, "test": 4},
        {"sun": 60.0, "bands": 20, "irradiance": (0.0, 0.5)},
        {"wavelengths": (0.5, 1.0, 2.0), "sky_view": (0.5, 0.5)},
        {
            "labelled_irradiance": (0.0, 1.0),
            "labelled_sky_view": (0.2, 1.0),
            "frequency": (0.6, 0.1, 0.1, 0.1, 0.1),
        },
    ),
    "stroke_digits": (
        FEW,
        {"angle": (0.0, 0.0), "scale": (1.0, 1.0)},
        {"width": (0.02, 0.03), "thick": 0.025},
        {"frequency": (0.5, 0.5, *(0.0,) * 8)},
    ),
    "textured_dsprites": (FEW, {"texture_seed": 1}, {"texture_seed": 2}, {"texture_seed": 3}),
    "xyobject": (FEW, {"spacing": 1}, {"spacing": 3}, {"spacing": 8}),
    "xysquare": (FEW, {"spacing": 1}, {"spacing": 4}, {"spacing": 7}),
    "xysquares": (FEW, {"spacing": 1}, {"spacing": 4}, {"spacing": 7}),
}
# Grids of published factors, whose worlds are correlations of these.
PUBLISHED = {"beamsynthesis", "dsprites", "mini_dsprites", "shapes3d_like"}
SHARED = inspect.signature(data.loader("dsprites")).parameters


def own_options(name):
    """Options of a world: those of a grid's renderer, or those that are given by name."""
    known = inspect.signature(data.loader(name)).parameters.values()
    if hasattr(data.loader(name), "__wrapped__"):
        return {p.name for p in known} - set(SHARED)
    return {p.name for p in known if p.kind is p.KEYWORD_ONLY}


def test_every_simulated_set_has_worlds_that_use_all_options():
    rendered = {n for n, where in catalogue.LOADERS.items() if ".render." in where}
    assert rendered == set(WORLDS) | PUBLISHED
    for name, (_, *worlds) in WORLDS.items():
        assert len(worlds) == 3
        assert own_options(name) <= set().union(*worlds), name


# Sets that take seconds to draw; test_loaders makes them again from a recipe, too.
SLOW = {"bright_digits", "concepts", "morpho_mnist"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in sorted(WORLDS)]
)
def test_worlds_are_kept_in_recipes(name):
    small, *worlds = WORLDS[name]
    usual = data.load(name, **small)
    digests = {usual.recipe["digest"]}
    for world in worlds:
        made = data.load(name, **{**small, **world})
        recipe = json.loads(json.dumps(made.recipe))
        assert {n: recipe["options"][n] for n in world} == json.loads(json.dumps(world))
        again = data.remake(recipe)
        assert again.recipe == recipe
        for part in ("train", "validation", "test"):
            mine, other = (getattr(d, part) for d in (made, again))
            assert mine.classes == other.classes and mine.shapes == other.shapes
            for site, value in mine.sites.items():
                assert torch.equal(value, other.sites[site])
        digests.add(recipe["digest"])
    assert len(digests) == 4
    defaults = {n: usual.recipe["options"][n] for n in own_options(name)}
    assert data.load(name, **{**small, **defaults}).recipe == usual.recipe


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("color_dsprites", {"brightness": (0.1, 0.2)}),
        ("noisy_dsprites", {"noise": 0.1}),
        ("textured_dsprites", {"texture_seed": 4}),
        ("xysquares", {"spacing": 2}),
    ],
)
def test_pictures_on_demand_are_told_apart_by_their_world(name, world):
    usual, other = (data.load(name, **FEW, on_demand=True, **own) for own in ({}, world))
    assert usual.recipe["digest"] != other.recipe["digest"]
    assert data.remake(json.loads(json.dumps(other.recipe))).recipe == other.recipe


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ball_in_boxes", {"radius": 9}, "radius is 9, expected a number in 0.5..3.5"),
        ("ball_in_boxes", {"intervened": 2}, "intervened is 2, expected a number in 0..1"),
        ("blob", {"width": 0}, "width is 0, expected >= 0.1"),
        ("boxhead", {"variant": "two_level"}, "unknown variant 'two_level': did you mean 'two_le"),
        ("boxhead", {"scale": (1, 3)}, r"scale is \(1, 3\), expected .* 0.5 <= low <= high <= 2"),
        ("boxhead", {"azimuth": (5, 5)}, r"azimuth is \(5, 5\), expected two different numbers"),
        ("boxhead", {"train": 0}, "train is 0, expected at least 1"),
        ("bright_digits", {"correlation": 2}, "correlation is 2, expected a number in -1..1"),
        ("candle_like", {"confounded": 1}, "confounded is 1, expected True or False"),
        ("candle_like", {"scenes_seed": -1}, "scenes_seed is -1, expected a whole number"),
        ("captions", {"noise": "much"}, "noise is 'much', expected >= 0"),
        ("captions", {"network_seed": 0.5}, "network_seed is 0.5, expected a whole number"),
        ("circle", {"angle": (1, 0)}, r"angle is \(1, 0\), expected two numbers with low <="),
        ("circle", {"noise": -1}, "noise is -1, expected >= 0"),
        ("circle", {"network_seed": -1}, "network_seed is -1, expected a whole number"),
        ("color_dsprites", {"brightness": 0.5}, "brightness is 0.5, expected two numbers with"),
        ("entangled_vectors", {"dims": (1,)}, r"dims are \(1,\), expected the numbers of two or"),
        ("entangled_vectors", {"network_seed": -1}, "network_seed is -1, expected a whole number"),
        ("correlated_digits", {"correlation": 2}, "correlation is 2, expected a number in -1..1"),
        ("correlated_digits", {"test_correlation": "c"}, "test_correlation is 'c', expected a n"),
        ("correlated_digits", {"occlusion": 2}, "occlusion is 2, expected a number in 0..1"),
        ("correlated_digits", {"digits": (3, 3)}, r"digits is \(3, 3\), expected two different"),
        ("correlated_digits", {"digits": 3}, "digits is 3, expected two digits, 0 to 9"),
        ("correlated_digits", {"side": 20}, "side is 20, expected 28 or 14"),
        ("faces", {"azimuth": (1, 0)}, r"azimuth is \(1, 0\), expected two numbers with low <="),
        ("faces", {"elevation": (0, NAN)}, "elevation is .0, nan., expected two numbers"),
        ("faces", {"frequency": (0.5, 0.5)}, "expected 8 probabilities that sum to 1"),
        ("faces", {"people_seed": "a"}, "people_seed is 'a', expected a whole number from 0"),
        ("faces", {"relief": -1}, "relief is -1, expected >= 0"),
        ("faces", {"noise": -1}, "noise is -1, expected >= 0"),
        ("few_shot", {"hands": 1, "source": "strokes"}, "hands is 1, expected at least 2"),
        ("few_shot", {"lean": None}, "lean is None, expected two numbers with low <= high"),
        ("glyphs", {"frequency": (0.5, 0.5)}, r"frequency is \(0.5, 0.5\), expected 3 numbers"),
        ("glyphs", {"frequency": (0.5, 0.5, 2)}, "expected 3 numbers in 0..1"),
        ("glyphs", {"least": 1.5}, "least is 1.5, expected a number in 0..1"),
        ("ica_segments", {"family": "cauchy"}, "unknown family 'cauchy': expected one of gaussi"),
        ("ica_segments", {"offset": -1}, "offset is -1, expected >= 0"),
        ("ica_segments", {"percentile": 0}, "percentile is 0, expected a number in 1..100"),
        ("ica_segments", {"scale": (3, 1)}, "scale is .*, expected two numbers with 0 <= low"),
        ("ica_segments", {"segments": 0}, "segments is 0, expected at least 1"),
        ("ica_segments", {"train": 0}, "train is 0, expected at least 1"),
        ("interventional_pong", {"speed": -1}, "speed is -1, expected a number in 0..6"),
        ("interventional_pong", {"sequences": 0}, "sequences is 0, expected at least 1"),
        ("moons", {"border": True}, "border is True, expected a number"),
        ("moons", {"frequency": (0.7, 0.7)}, "expected 2 probabilities that sum to 1"),
        ("moons", {"flip": 2}, "flip is 2, expected a number in 0..1"),
        ("morpho_mnist", {"intensity_effect": float("inf")}, "intensity_effect is inf, expected"),
        ("multi_digits", {"most": 11}, "most is 11, expected 1 to 10"),
        ("multi_digits", {"side": 12}, "side is 12, expected at least 14"),
        ("multi_digits", {"scale": (0.8, 3)}, "scale is .*, expected .* <= high <= 2.85714"),
        ("noisy_dsprites", {"noise": 1.5}, "noise is 1.5, expected a number in 0..1"),
        ("noisy_images", {"cycles": 0}, "cycles is 0, expected >= 0.1"),
        ("outliers", {"errors": ("colum",)}, "unknown kind in errors 'colum': did you mean 'colu"),
        ("outliers", {"errors": "row"}, r"errors is 'row', expected a tuple such as \('row',\)"),
        ("outliers", {"errors": ()}, "errors is .., expected some of column, row"),
        ("outliers", {"errors": ("row", "row")}, "expected some of .*, each once"),
        ("outliers", {"shapes": ("cube",)}, "unknown kind in shapes 'cube'"),
        ("outliers", {"shift": 10}, "shift are 1 and 10, expected .* in 'column', not none"),
        ("outliers", {"errors": ("frame",), "width": 14}, "pixels in 'frame', not all"),
        ("outliers", {"width": 0}, "width is 0, expected at least 1"),
        ("paired_digits", {"inverted": -0.1}, "inverted is -0.1, expected a number in 0..1"),
        ("patch_digits", {"patch": 1.5}, "patch is 1.5, expected a number in 0..1"),
        ("patch_digits", {"train_patch": "labels"}, "unknown train_patch 'labels': did you mean"),
        ("patch_digits", {"corner": "middle"}, "unknown corner 'middle': expected one of bottom"),
        ("patch_digits", {"width": 3}, "width is 3, expected 1 to 2"),
        ("pendulum", {"light_angle": (0, 80)}, "light_angle is .*, expected slopes between 0"),
        ("pendulum", {"step": 0}, "step is 0, expected more than 0 degrees"),
        ("pendulum_dear", {"shortest": 0}, "shortest is 0, expected >= 0.01"),
        ("pendulum_vectors", {"edges": (1, 2, 3)}, r"edges is \(1, 2, 3\), expected 4 numbers"),
        ("perturb_sim", {"targets": (3, 1)}, "targets is .*, expected two numbers with 0 <= low"),
        ("perturb_sim", {"unseen": 60}, "unseen is 60, expected fewer than the 60 there are"),
        ("perturb_sim", {"cells": 1}, "has 60 cells, expected more than the 600 of validation"),
        ("spectra", {"sun": 90}, "sun is 90, expected a zenith angle between 0 and 90 degrees"),
        ("spectra", {"bands": 1}, "bands is 1, expected at least 2"),
        ("spectra", {"wavelengths": (0.5, 5)}, "wavelengths is .*, expected 2 numbers in 0.45"),
        ("spectra", {"bands": 5, "wavelengths": (0.5, 1)}, "expected only one of them"),
        ("spectra", {"sky_view": (-1, 1)}, "sky_view is .*, expected two numbers with 0 <= low"),
        ("stroke_digits", {"scale": (-1, 1)}, "scale is .*, expected two numbers with 0 <= low"),
        ("stroke_digits", {"frequency": (1.0,)}, "expected 10 probabilities that sum to 1"),
        ("textured_dsprites", {"texture_seed": 1.5}, "texture_seed is 1.5, expected a whole num"),
        ("xyobject", {"spacing": 0}, "spacing is 0, expected 1 to 8"),
        ("xysquares", {"spacing": 2.5}, "spacing is 2.5, expected a whole number"),
    ],
)  # fmt: skip
def test_what_no_world_can_be_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as told:
        data.load(name, **options)
    assert "\n" not in str(told.value)


def test_flags_take_ranges_and_lists_and_say_what_they_are(capsys):
    parser = Parser(prog="test")
    parser.add_argument("--sun")
    names = add_loader(parser, data.loader("spectra"), "spectra")
    words = "--data-sun 60 --irradiance 0 0.5 --wavelengths 0.5 1 2 --bands 3 --data-seed 4"
    given = chosen(parser.parse_all(words.split()), list(names))
    assert {names[n]: v for n, v in given.items()} == {
        "sun": 60, "irradiance": (0, 0.5), "wavelengths": (0.5, 1, 2), "bands": 3, "seed": 4,
    }  # fmt: skip
    parser = Parser(prog="test")
    add_loader(parser, data.loader("own.npz"), "a file")  # of one value or several kinds
    assert parser.parse_all(["--splits", "None"]).splits is None
    for name in WORLDS:
        loader = data.loader(name)
        parser = Parser(prog="test")
        names = add_loader(parser, loader, name)
        helps = {a.dest: a.help for a in parser._actions if a.dest in names}
        for option in own_options(name):
            assert not helps[option].startswith("(default"), (name, option)
    parser.print_help()
    assert "Pixels from one place to the next, 1 to 8" in " ".join(capsys.readouterr().out.split())


def test_the_shell_fits_people_of_a_seed(tmp_path, capsys):
    line = f"fit faces --data faces --train 12 --validation 4 --test 4 --out {tmp_path}/run"
    line += " --identities 3 --people-seed 3 --azimuth -0.5 0.5 --frequency 0.5 0.3 0.2"
    assert main([*line.split(), "--epochs", "1", "--hidden", "4", "--quiet"]) == 0
    told = capsys.readouterr().out  # the light is a label too, but has no classes
    assert "test error of identity" in told and "test error of light" not in told
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    told = {n: recipe["options"][n] for n in ("people_seed", "azimuth", "frequency")}
    assert told == {"people_seed": 3, "azimuth": [-0.5, 0.5], "frequency": [0.5, 0.3, 0.2]}
    assert data.remake(recipe).recipe["digest"] == recipe["digest"]
    assert main([*line.split(), "--azimuth", "1", "0", "--overwrite"]) == 2
    assert "azimuth is (1, 0), expected two numbers" in capsys.readouterr().err


@pytest.mark.parametrize("frequency", [(0.2, 0.8), (0.5, 0.25, 0.25), (0.1, 0.0, 0.6, 0.3)])
@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_spread_rows_have_their_shares(frequency, rows):
    counts = np.bincount(world_options.spread(rows, len(frequency), frequency), minlength=4)
    assert counts.sum() == rows
    assert (np.abs(counts[: len(frequency)] - rows * np.array(frequency)) <= 1).all()
    assert (world_options.spread(rows, 3, None) == np.arange(rows) % 3).all()


@pytest.mark.parametrize("frequency", [(0.2, 0.8), (0.5, 0.25, 0.25), (0.1, 0.0, 0.6, 0.3)])
def test_redrawn_classes_have_their_frequencies(frequency):
    rows, count = 40_000, len(frequency)
    fair = np.random.default_rng(0).integers(count, size=rows)

    def redrawn(shares):
        return world_options.redrawn(fair, count, shares, np.random.default_rng(1))

    found = np.bincount(redrawn(frequency), minlength=count) / rows
    error = np.sqrt(np.array(frequency) * (1 - np.array(frequency)) / rows)
    assert (np.abs(found - frequency) <= 4 * error).all()
    assert (redrawn((1 / count,) * count) == fair).all() and redrawn(None) is fair
    # A uniform number keeps its place: classes move only as far as the frequencies do.
    near = (frequency[0] + 0.01, *frequency[1:-1], frequency[-1] - 0.01)
    assert (redrawn(near) != redrawn(frequency)).mean() < 0.01 * count
