"""Sets of two frames: published rates, alignment of targets, windows, independent test rows."""

from __future__ import annotations

import numpy as np
import pytest

from ppl_models import data
from ppl_models.data.render import (
    ball_in_boxes as boxes,
    entangled_vectors as vectors,
    intervened,
    interventional_pong as pong,
)
from ppl_models.data.render.raster import Field, paint

FEW = {"validation": 5, "test": 10}


@pytest.mark.parametrize(
    ("kinds", "share", "none", "each"),
    [(4, 0.15, 0.522, 0.12), (5, 0.15, 0.444, 0.11), (2, 0.2, 0.64, 0.18)],
)
def test_targets_have_the_published_rates(kinds, share, none, each):
    which = intervened.chosen_targets(100_000, kinds, share, np.random.default_rng(0))
    found = np.bincount(which + 1, minlength=kinds + 1) / len(which)
    assert found[0] == pytest.approx(none, abs=0.007)
    assert found[1:] == pytest.approx(each, abs=0.005)


@pytest.mark.parametrize("name", ["ball_in_boxes", "entangled_vectors", "interventional_pong"])
def test_rows_are_windows_of_sequences_and_never_reach_over_their_ends(name):
    """The frame after is the next row's frame before, but for the last of a sequence."""
    small = {} if name == "entangled_vectors" else {"side": 16}
    rows = data.load(name, train=60, sequences=3, seed=1, **small, **FEW).train.sites
    follows = (rows["x_next"][:-1] == rows["x"][1:]).all(1).tolist()
    assert [k for k, same in enumerate(follows) if not same] == [19, 39]
    assert ((rows["targets"] == 0) | (rows["targets"] == 1)).all()
    assert int(rows["targets"].sum(1).max()) == 1
    assert rows["x"].shape == rows["x_next"].shape
    test = data.load(name, train=2, validation=2, test=40, **small).test.sites
    assert not (test["x_next"][:-1] == test["x"][1:]).all(1).any()


def states(name, rows=20_000):
    """States before and after, and targets, of a set."""
    draw = np.random.default_rng(0)
    if name == "vectors":
        world = vectors.world_of((1, 2, 1, 1), 0.25, 0)
        return (*intervened.sequences(world.start, world.step, 50, 4, 0.15, rows, draw), world)
    module, kinds = {"boxes": (boxes, 2), "pong": (pong, 5)}[name]
    return intervened.sequences(module.anywhere, module.step, 50, kinds, 0.15, rows, draw)


def test_a_vectors_targets_say_what_was_set_on_the_way_to_the_next():
    """Without a target the noise is 0.25; one step off the targets, they would say nothing."""
    before, after, target, world = states("vectors")
    apart = after - np.tanh(before @ world.kept.T)
    for variable in range(4):
        own = world.owner == variable
        assert apart[target != variable][:, own].std() == pytest.approx(0.25, abs=0.005)
        assert after[target == variable][:, own].std() == pytest.approx(0.8, abs=0.05)
        assert apart[np.roll(target, 1) == variable][:, own].std() < 0.5


def test_a_ball_changes_its_box_where_that_is_set_and_nowhere_else():
    before, after, target = states("boxes")
    assert ((before[:, 2] != after[:, 2]) == (target == 0)).all()
    across, up = np.abs(after - before)[:, :2].T
    walk = target != 1
    inside = walk & (np.abs(before[:, 1] - 16) < 6)
    assert (after - before)[inside, 1].std() == pytest.approx(1.5, abs=0.05)
    assert up[target == 1].mean() > 5 > up[walk].max() / 2
    assert across.max() < 9 and (before[:, 0] >= 3.5).all() and (before[:, 0] <= 12.5).all()


def test_pongs_variables_jump_where_they_are_set():
    before, after, target = states("pong")
    move = np.abs(after - before)
    lost = np.isclose(after[:, 0], 16) | (after[:, 5:] != before[:, 5:]).any(1)
    for place in (3, 4):  # paddles: 1.5 at most towards the ball, and noise of 0.5
        assert move[(target != place) & ~lost][:, place].max() < 1.5 + 5 * 0.5
        set_ = move[(target == place) & (np.abs(before[:, place] - 16) < 7)][:, place]
        assert set_.mean() == pytest.approx(1.5, abs=0.1)
    free = (np.abs(before[:, :2] - 16) < 6).all(1) & (target == -1)
    step = (after - before)[free]
    sine, cosine = np.sin(before[free, 2]), np.cos(before[free, 2])
    assert (step[:, 0] - 2 * sine).std() == pytest.approx(0.2, abs=0.01)
    assert (step[:, 1] - 2 * cosine).std() == pytest.approx(0.2, abs=0.01)
    assert (step[:, 0] - 2 * sine).mean() == pytest.approx(0, abs=0.01)
    assert move[target == 0][:, 0].mean() > 4 and move[target == 1][:, 1].mean() > 4
    assert set(np.unique(after[:, 5:])) == {0, 1, 2, 3, 4}
    points = (after[:, 5:] - before[:, 5:]).sum(1)
    assert ((points == 0) | (points == 1) | ((after[:, 5:] == 0).all(1))).all()
    assert (points > 0).mean() > 0.005


@pytest.mark.parametrize(
    ("place", "angle", "paddles", "expected"),
    [
        ((16, 28.5), 0.0, (16, 16), (16, 27.1, np.pi)),  # the upper wall
        ((16, 3.5), np.pi, (16, 16), (16, 4.9, 0.0)),
        ((8, 16), 1.5 * np.pi, (16, 16), (8.4, 16, 0.5 * np.pi)),  # the left paddle
        ((24, 16), 0.5 * np.pi, (16, 16), (23.6, 16, 1.5 * np.pi)),
        ((8, 16), 1.5 * np.pi, (24, 16), (6, 16, 1.5 * np.pi)),  # past it
        ((4.5, 16), 1.5 * np.pi, (24, 16), (16, 16, None)),  # lost
    ],
)
def test_a_ball_is_thrown_back_as_by_hand(place, angle, paddles, expected):
    state = np.array([[*place, angle, *paddles, 1, 4]], float)
    after = pong.step(state, np.array([-1]), np.random.default_rng(0), noise=0.0)[0]
    assert after[:2] == pytest.approx(expected[:2])
    if expected[2] is not None:
        assert after[2] == pytest.approx(expected[2] % (2 * np.pi))
        assert after[5:].tolist() == [1, 4]
    else:  # the fifth point of the right begins a new game
        assert after[5:].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["ball_in_boxes", "entangled_vectors", "interventional_pong"])
def test_test_rows_are_independent(name):
    small = {} if name == "entangled_vectors" else {"side": 8}
    rows = data.load(name, train=2, validation=2, test=4000, **small).test.sites
    found = np.concatenate(
        [v.reshape(len(v), -1) for n, v in rows.items() if n not in ("x", "x_next", "targets")], 1
    )
    owner = [n for n, v in rows.items() if n not in ("x", "x_next", "targets")
             for _ in range(v[0].numel())]  # fmt: skip
    other = np.array(owner)[:, None] != np.array(owner)
    assert np.abs(np.corrcoef(found.T)[other]).max() < 5 / 4000**0.5
    lagged = np.corrcoef(found[:-1].T, found[1:].T)[: len(owner), len(owner) :]
    assert np.abs(lagged).max() < 5 / 4000**0.5


def test_a_world_of_one_network_is_the_same_for_all_seeds():
    one, other = (vectors.world_of((1, 1), 0.1, seed) for seed in (0, 0))
    assert (one.kept == other.kept).all()
    state = np.random.default_rng(0).normal(size=(500, 2))
    seen = one.seen(state)
    back = seen * one.spread + one.centre
    for place, (turn, bias) in enumerate(reversed(one.layers)):
        if place:
            back = np.where(back > 0, back, back / 0.3)
        back = (back - bias) @ turn.T
    assert back == pytest.approx(state)


def test_shares_of_pixels_are_those_of_areas():
    field = Field(32, 32.0)
    disc = field.disc(np.array([10.3, 20.0]), np.array([12.0, 7.5]), 3.0)
    assert disc.sum((1, 2)) == pytest.approx(np.pi * 9, rel=0.02)
    across = np.arange(32) + 0.5
    assert disc.sum(1) @ across / disc.sum((1, 2)) == pytest.approx([10.3, 20.0], abs=0.05)
    assert disc.sum(2) @ across[::-1] / disc.sum((1, 2)) == pytest.approx([12.0, 7.5], abs=0.05)
    box = field.rectangle((np.array([1.0, 2.0]), np.array([4.0, 4.0])), (5.0, 7.0))
    assert box.sum((1, 2)).tolist() == pytest.approx([6, 4])
    assert (box[0, 25:27, 1:4] == 1).all()
    images = np.zeros((1, 32, 32, 3), np.float32)
    paint(images, box[:1], (0.5, 1.0, 0.0))
    assert images[0, 26, 2].tolist() == [0.5, 1.0, 0.0] and images.sum() == 6 * 1.5


def test_pictures_show_their_states():
    """The red is where the ball is, and the fourth channel where it will be."""
    state = pong.anywhere(50, np.random.default_rng(0))
    images = pong.drawn(state).astype(float) / 255
    across, up = np.arange(32) + 0.5, 31.5 - np.arange(32)
    red = np.maximum(images[..., 0] - images[..., 1] - 0.1, 0)
    assert red.sum(1) @ across / red.sum((1, 2)) == pytest.approx(state[:, 0], abs=0.5)
    assert red.sum(2) @ up / red.sum((1, 2)) == pytest.approx(state[:, 1], abs=0.5)
    black = 1 - images[..., 3]
    ahead = state[:, 0] + 2 * np.sin(state[:, 2])
    assert black.sum(1) @ across / black.sum((1, 2)) == pytest.approx(ahead, abs=0.2)
    state = boxes.anywhere(50, np.random.default_rng(0))
    images = boxes.drawn(state).astype(float) / 255
    red = np.maximum(images[..., 0] - images[..., 1] - 0.1, 0)
    assert red.sum(1) @ across / red.sum((1, 2)) == pytest.approx(
        state[:, 0] + 16 * state[:, 2], abs=0.3
    )
    assert red.sum(2) @ up / red.sum((1, 2)) == pytest.approx(state[:, 1], abs=0.3)
