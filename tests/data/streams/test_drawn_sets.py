"""Sets drawn anew in each batch: which elements, how many, and steps that a set shares."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ppl_models import data
from ppl_models.batch import Batch
from ppl_models.data import Stream, Table
from ppl_models.inference.training.process_noise import Draws

POOL = 6
SIZES = (6, 4, 1)


def pools(rows=1, channels=1) -> Batch:
    """Images of 3 x 3 whose numbers say row, element and pixel; padding repeats nothing real."""
    of = (
        torch.arange(3 * rows).reshape(-1, 1, 1) * 1000
        + torch.arange(POOL).reshape(1, -1, 1) * 100
    )
    x = (of + torch.arange(9 * channels)).double()
    there = torch.arange(POOL) < torch.tensor(SIZES * rows)[:, None]
    x[~there] = -1
    return Batch({"x": x, "x_there": there.double()}, size=30, total=40)


def test_elements_of_the_row_and_none_twice() -> None:
    torch.manual_seed(0)
    batch = pools(200)
    made = data.drawn_sets("x", 3)(batch)
    assert made["x"].shape == (600, 3, 9) and made.size == 30 and made.total == 40
    there = made["x_there"] > 0
    wanted = torch.tensor(SIZES * 200).clamp(max=3)
    assert torch.equal(there.sum(1), wanted)
    element = (made["x"][..., 0] // 100).long()
    for row, own in enumerate(element):
        kept = own[there[row]]
        assert (kept // 10 == row).all() and len(kept.unique()) == len(kept)
        assert (kept % 10 < SIZES[row % 3]).all()
    # Each as likely: of six, three; deviations of shares of 200 are below 0.036.
    share = torch.bincount(element[0::3].flatten() % 10, minlength=POOL) / 200
    assert ((share - 0.5).abs() < 0.15).all()
    first = torch.bincount(element[0::3, 0] % 10, minlength=POOL) / 200
    assert ((first - 1 / 6).abs() < 0.11).all()


def test_sizes_vary_and_padding_is_filled() -> None:
    torch.manual_seed(0)
    made = data.drawn_sets("x", (2, 5))(pools(300))
    size = made["x_there"].sum(1).long()
    share = torch.bincount(size[0::3], minlength=6)[2:] / 300
    assert ((share - 0.25).abs() < 0.1).all() and size[2::3].eq(1).all()
    assert size[1::3].max() == 4
    gone = made["x_there"] == 0
    first = made["x"][:, :1].expand_as(made["x"])
    assert torch.equal(made["x"][gone], first[gone])
    full = data.drawn_sets("x", 50)(pools())
    assert full["x"].shape == (3, POOL, 9)
    assert torch.equal(full["x_there"].sum(1).long(), torch.tensor(SIZES))
    alone = data.drawn_sets("x", 2)(pools().only("x"))  # without which there are, all
    assert alone["x_there"].eq(1).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_set_is_turned_as_a_whole(channels) -> None:
    """Each set is one of the eight turned copies of itself, and all are drawn."""
    torch.manual_seed(0)
    shape = (3, 3, channels)
    made = data.drawn_sets("x", 4, [data.Dihedral()], shape)(pools(100, channels))
    pixels = torch.arange(9 * channels).reshape(shape)
    copies = [
        torch.rot90(p, k).flatten().tolist() for p in (pixels, pixels.flip(1)) for k in range(4)
    ]
    seen = []
    for elements in made["x"]:
        (copy,) = {tuple((e % 100).long().tolist()) for e in elements}
        seen.append(copies.index(list(copy)))
    share = torch.bincount(torch.tensor(seen), minlength=8) / len(seen)
    assert ((share - 1 / 8).abs() < 0.08).all()


def test_any_step_is_drawn_once_for_a_set() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 25).expand(2, 4, 25)
    made = data.drawn_sets("x", 4, [data.Affine(180.0)], (5, 5))(Batch({"x": x}))["x"]
    assert_close(made, made[:, :1].expand_as(made))
    assert not torch.allclose(made[0, 0], made[1, 0])


def test_binary_draws_are_those_of_the_probabilities() -> None:
    torch.manual_seed(0)
    x = torch.tensor([0.0, 0.2, 0.7, 1.0]).expand(500, 4, 4)
    made = data.drawn_sets("x", 2, binary=True)(Batch({"x": x}))["x"]
    assert set(made.unique().tolist()) == {0.0, 1.0}
    mean = made.mean((0, 1))
    assert mean[0] == 0 and mean[3] == 1
    assert abs(mean[1] - 0.2) < 0.06 and abs(mean[2] - 0.7) < 0.06  # four deviations


def test_a_seed_and_processes() -> None:
    """Draws are those of torch's generator, row by row, whoever takes which rows."""
    table = Table("pools", dict(pools(4)))
    prepare = data.drawn_sets("x", (1, 4), [data.Dihedral()], (3, 3), binary=True)
    torch.manual_seed(1)
    (whole,) = Draws(0, 0, 1, torch.device("cpu")).prepared(
        prepare, Stream(table, 7, seed=0).step(1), (0, 1)
    )
    parts = []
    for rank in range(2):
        stream = Stream(table, 7, seed=0, process=rank, processes=2)
        draws = Draws(0, rank, 2, torch.device("cpu"))
        draws.shares = stream.shares
        torch.manual_seed(1)
        parts += draws.prepared(prepare, stream.step(1), (0, 1))
    for name in whole:
        assert_close(torch.cat([p[name] for p in parts]), whole[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("drawn sets of site 'y', but the batch has", lambda: data.drawn_sets("y")(pools())),
        ("whose rows have shape \\(9,\\)",
         lambda: data.drawn_sets()(Batch({"x": torch.ones(2, 9)}))),
        ("its elements have shape \\(9,\\), expected 2 x 2 x 1",
         lambda: data.drawn_sets("x", 2, [data.Flip()], (2, 2))(pools())),
        ("size of drawn sets of site 'x' is 0, expected at least 1",
         lambda: data.drawn_sets("x", 0)),
        ("is \\(3, 2\\), expected a number or", lambda: data.drawn_sets("x", (3, 2))),
        ("Flip of site 'x': expected images", lambda: data.drawn_sets("x", 2, [data.Flip()])),
        ("Grey of site 'x': expected a step that does the same",
         lambda: data.drawn_sets("x", 2, [data.Grey()], (3, 3))),
        ("expected a call like Flip", lambda: data.drawn_sets("x", 2, [data.Flip], (3, 3))),
        ("Dihedral of site 'x': expected images as high as wide",
         lambda: data.drawn_sets("x", 2, [data.Dihedral()], (3, 4))),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(message, call) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
