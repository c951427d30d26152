"""Guided-VAE: its light decoder by loops, its company's turns, and the plain VAE without them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from worlds.given_codes import GivenCodes
from worlds.processes import together
from worlds.whole_life import QUIET, compiled, resumed, whole_life

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference.training.sides import sides
from ppl_models.parts.light_decoder import (
    EDGE,
    LightDecoder,
    LightFit,
    LightReconstruction,
    _resampled,
    stretched,
    turned,
)

SMALL = {"latent": 4, "networks": "dense", "hidden": (6,), "readers": (4,)}
OPTIONS = {"epochs": 2, "batch_size": 20, "learning_rate": 1e-2, "seed": 3}
THICK = {"strategy": "supervised", "attributes": ("thick",)}
KINDS = {"light": {}, "thick": THICK}
OFF = {"light": {"light": 0.0}, "thick": {**THICK, "excitation": 0.0, "inhibition": 0.0}}


@pytest.fixture(scope="module")
def strokes() -> data.Dataset:
    """A third of the rows know whether they are thick."""
    return data.load(
        "stroke_digits", train=60, validation=20, test=20, side=6, labelled={"thick": 20}
    )


def made(strokes: data.Dataset, **settings):
    return zoo.build("guided_vae", strokes, seed=1, **SMALL, **settings)


# ---- the light decoder -------------------------------------------------------------------------


def light_of(shape: tuple[int, ...], latent: int = 4, dtype=torch.float64) -> LightDecoder:
    torch.manual_seed(0)
    light = LightDecoder(latent, shape).to(dtype)
    with torch.no_grad():
        light.offset.normal_()
        light.turn.copy_(torch.tensor([0.4, 0.1]))
        light.stretch.copy_(torch.tensor([[0.3, -0.2], [1.1, 0.9]]))
    return light


def resampled(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """An image ``(H, W, C)``, pixel by pixel, read at the places that a matrix gives."""
    height, width, _ = image.shape
    found = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            here = torch.tensor([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1])
            x, y = (matrix @ here.double()).tolist()
            x, y = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        found[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return found


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 5, 2)])
def test_the_light_image_pixel_by_pixel(shape) -> None:
    light = light_of(shape)
    z = torch.randn(2, 2, 4, dtype=torch.float64)  # any dimensions before the last
    light.requires_grad_(False)
    found = light(z)
    for place in ((0, 0), (1, 1)):
        zi = z[place]
        content = (light.basis @ zi[2:] + light.offset).sigmoid().reshape(shape)
        a = light.turn[0] * zi[1] + light.turn[1]
        rotation = torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]]).double()
        scale = torch.diag(light.stretch[0] * zi[0] + light.stretch[1])
        expected = resampled(resampled(content, rotation), scale)
        assert_close(found[place], expected.flatten())


def test_turns_and_scales_in_closed_form() -> None:
    """A quarter turn is that of the grid, a scale of 2 a picture half as large, -1 a mirror."""
    light = light_of((4, 4, 1))
    plain = torch.zeros(1, 4, dtype=torch.float64)
    plain[:, 2:] = torch.randn(2, dtype=torch.float64)

    def image(turn: float, across: float, down: float) -> torch.Tensor:
        with torch.no_grad():
            light.turn.copy_(torch.tensor([0.0, turn]))
            light.stretch.copy_(torch.tensor([[0.0, 0.0], [across, down]]))
            return light(plain).reshape(4, 4)

    content = image(0.0, 1.0, 1.0)
    told = (light.basis @ plain[0, 2:] + light.offset).sigmoid().reshape(4, 4)
    assert_close(content, told.detach())
    assert_close(image(math.pi / 2, 1.0, 1.0), content.rot90(-1))
    assert_close(image(0.0, -1.0, 1.0), content.flip(1))
    assert_close(image(0.0, 1.0, -1.0), content.flip(0))
    smaller = functional.avg_pool2d(content[None], 2)[0]
    assert_close(image(0.0, 2.0, 2.0)[1:3, 1:3], smaller)
    maps = turned(torch.tensor([0.3, -1.0])), stretched(torch.tensor([2.0]), torch.tensor([0.5]))
    images = torch.rand(2, 1, 4, 5)
    for each in maps:
        grid = functional.affine_grid(each, [len(each), 1, 4, 5], align_corners=False)
        own = functional.grid_sample(images[: len(each)], grid, align_corners=False)
        assert_close(_resampled(images[: len(each)], each), own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("likelihood", ["soft_bernoulli", "unit_normal"])
def test_its_terms_by_hand(likelihood, scale, dtype) -> None:
    """Half the loss of each row for the codes; the loss and the overlap for the decoder."""
    shape, rows = (2, 2, 1), 5
    light, pair = light_of(shape, dtype=dtype), GivenCodes(4, dtype)
    x = torch.rand(rows, 4, dtype=dtype)
    batch = Batch({"x": x}, size=rows * scale)
    image = light(x)
    if likelihood == "unit_normal":
        losses = 0.5 * ((x - image) ** 2 + math.log(2 * math.pi)).sum(-1)
    else:
        p = image.clamp(EDGE, 1 - EDGE)
        losses = -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    columns = light.basis.T
    overlap = sum(abs(columns[j] @ columns[k]) for j in range(2) for k in range(2) if j != k)
    assert_close(light.overlap(), overlap)
    term, fit = LightReconstruction(light, likelihood, 0.5), LightFit(light, likelihood, 0.25)
    found = term.differentiable_loss(pair.model, pair.guide, batch)
    assert_close(found, 0.5 * scale * losses.sum(), rtol=1e-5, atol=1e-5)
    theirs = fit.differentiable_loss(pair.model, pair.guide, batch)
    assert_close(theirs, scale * (losses.sum() + rows * 0.25 * overlap), rtol=1e-5, atol=1e-5)
    (to_code,) = torch.autograd.grad(found, pair.shift)
    assert to_code.all()  # every coordinate of the code serves the light image
    assert torch.autograd.grad(theirs, pair.shift, allow_unused=True) == (None,)


def test_it_begins_without_turn_and_scale() -> None:
    """At a code of 0; from there on z[1] turns and z[0] scales."""
    light = light_of((3, 3, 1))
    light.reset_parameters()
    z = torch.randn(5, 4, dtype=torch.float64)
    z[:, :2] = 0
    assert_close(light(z), functional.linear(z[:, 2:], light.basis, light.offset).sigmoid())
    for place in (0, 1):
        moved = z.clone()
        moved[:, place] = 1
        assert not torch.isclose(light(z), light(moved)).all()
    with pytest.raises(ValueError, match="latent is 2, expected 3 or more"):
        LightDecoder(2, (3, 3, 1))
    with pytest.raises(ValueError, match="unknown likelihood 'laplace'"):
        LightFit(light, "laplace")
    with pytest.raises(ValueError, match="weight of LightReconstruction"):
        LightReconstruction(light, weight=-1.0)


# ---- the pair ----------------------------------------------------------------------------------


def told(run) -> dict[str, torch.Tensor]:
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    return {**curve, **{f"weight {n}": v.detach() for n, v in run.pair.state_dict().items()}}


def test_sides_hold_different_parameters(strokes) -> None:
    """The pair its own, and each player what no one else moves."""
    for settings, names in (({}, ["light_decoder"]), (THICK, ["heads", "adversaries"])):
        pair = made(strokes, **settings)
        (stage,) = pair.stages()
        own, *players = sides(pair, stage, rows=10)
        assert [p.name for p in players] == names
        assert {id(p) for p in own.parameters} == {id(p) for p in pair.parameters()}
        held = [id(p) for side in (own, *players) for p in side.parameters]
        assert len(set(held)) == len(held)
    decay = players[-1].optimiser.param_groups[0]["weight_decay"]
    assert decay == 1e-4 / 200 and players[0].optimiser.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_moves_one_side_alone(strokes, kind) -> None:
    """Players leave the pair as it is, and the pair them."""
    rows = strokes.train.only("x", "thick")

    def after(epochs: int, pair_rate: float, player_rate: float):
        pair = made(strokes, **KINDS[kind])
        (stage,) = pair.stages()
        players = tuple(
            zoo.inference.Player(p.name, p.objective, p.module, learning_rate=player_rate)
            for p in stage.players
        )
        stage = inference.Stage(stage.objective, sites=stage.sites, players=players)
        options = {**OPTIONS, "epochs": epochs, "learning_rate": pair_rate}
        inference.fit(pair, rows, stages=(stage,), **QUIET, **options)
        return [[v.clone() for v in m.state_dict().values()]
                for m in (pair, *(p.module for p in players))]  # fmt: skip

    def same(one, other) -> bool:
        return all(map(torch.equal, one, other))

    begin = [v.clone() for v in made(strokes, **KINDS[kind]).state_dict().values()]
    pair, *modules = after(2, 0.0, 1e-2)
    once = after(1, 0.0, 1e-2)[1:]
    assert same(pair, begin) and not any(map(same, modules, once))
    pair, *modules = after(2, 1e-2, 0.0)
    once = after(1, 1e-2, 0.0)[1:]
    assert not same(pair, begin) and all(map(same, modules, once))


@pytest.fixture(scope="module")
def alone(strokes):
    """The plain VAE, by the rows that each kind sees."""

    def fitted(kind: str) -> dict[str, torch.Tensor]:
        pair = made(strokes, **KINDS[kind])
        (guided,) = pair.stages()
        stage = inference.Stage(pair.objective(), sites=guided.sites)
        return told(inference.fit(pair, strokes, stages=(stage,), **QUIET, **OPTIONS))

    return {kind: fitted(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_without_weights_it_is_the_vae_to_the_bit(strokes, alone, kind, tmp_path) -> None:
    """At once and resumed, while its company is trained."""
    make = lambda: made(strokes, **OFF[kind])  # noqa: E731
    for run in (
        inference.fit(make(), strokes, **QUIET, **OPTIONS),
        resumed(make, strokes, tmp_path / "run", **QUIET, **OPTIONS),
    ):
        found = told(run)
        for name, value in alone[kind].items():
            assert torch.equal(value, found[name]), name
        player = "light_decoder.light(x)" if kind == "light" else "heads.logistic"
        assert float(found[player].std()) > 0  # it was trained


@pytest.mark.parametrize("kind", [pytest.param("light", marks=pytest.mark.long), "thick"])
def test_two_processes_are_one(strokes, kind, tmp_path) -> None:
    def train(rank: int = 0) -> dict[str, torch.Tensor]:
        return told(inference.fit(made(strokes, **KINDS[kind]), strokes, **QUIET, **OPTIONS))

    expected = train()
    for outcome in together(2, tmp_path, train):
        assert not outcome.error, outcome.error
        for name, value in expected.items():
            assert_close(outcome.value[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_the_whole_life(strokes, kind, tmp_path) -> None:
    options = {**OPTIONS, "epochs": 3}
    whole_life(lambda: made(strokes, **KINDS[kind]), strokes, tmp_path, **options)


@pytest.mark.long
def test_steps_of_both_kinds_compile(strokes) -> None:
    for settings in KINDS.values():
        make = lambda: made(strokes, **settings)  # noqa: E731, B023
        expected = told(inference.fit(make(), strokes, **QUIET, **OPTIONS))
        found = told(compiled(make, strokes, **QUIET, **OPTIONS))
        for name, value in expected.items():
            assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attributes": ()}, r"attributes are \(\), expected different labels, fewer than 4"),
        ({"attributes": ("a", "a")}, "expected different labels"),
        ({"latent": 2}, "latent is 2, expected at least 3"),
        ({"likelihood": "laplace"}, "likelihood"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(strokes, settings, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        zoo.build("guided_vae", strokes, **{**SMALL, **settings})
    assert "\n" not in str(caught.value)


def test_rows_that_do_not_fit_are_one_line(strokes) -> None:
    """Ten digits are no attribute, and a label that is not there is none."""
    for name, message in (("y", "site 'y'.*an attribute that"), ("thicc", "site 'thicc'")):
        pair = made(strokes, strategy="supervised", attributes=(name,))
        with pytest.raises(ValueError, match=message) as caught:
            inference.fit(pair, strokes, **QUIET, **OPTIONS)
        assert "\n" not in str(caught.value)
