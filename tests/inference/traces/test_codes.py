"""A site's codes: shapes, weights and densities under labels, particles and labels after codes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.two_codes import C, L, TwoCodes, rows

from ppl_models import guides
from ppl_models.inference import IWELBO, EnumeratedELBO, UnhandledSite
from ppl_models.networks import Label


def run_of(world, seen=("x",), bound=None):
    bound = bound or EnumeratedELBO(4)
    return bound.run(world.model, world.guide, rows(*seen))


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("seen", [("x",), ("x", "y")], ids=["missing", "known"])
def test_draws_and_weights(seen, given, particles):
    world = TwoCodes(given=given)
    run = run_of(world, seen, EnumeratedELBO(particles))
    codes = run.codes("b")
    ways = C if given and seen == ("x",) else 1
    assert codes.values.shape == (ways * particles, 6, L)
    assert codes.shape == ((ways, particles, 6) if ways > 1 else (particles, 6))
    assert_close(codes.log_weights.exp().sum(0), torch.ones(6).double())
    if ways > 1:
        q_y = world.guide.factor("y", run.batch).probs.T  # C x B
        expected = (q_y / particles).repeat_interleave(particles, 0)
        assert_close(codes.log_weights.exp(), expected)
    log_q = codes.by_draw(codes.q.log_prob(run.drawn.draws["b"]))
    for s, y in enumerate(y for y in range(ways) for _ in range(particles)):
        label = run.batch["y"] if seen == ("x", "y") else torch.full((6,), y)
        factor = world.guide.factor("b", {"x": run.batch["x"], "y": label})
        assert_close(log_q[s], factor.log_prob(codes.values[s]))
    assert run.codes("b") is codes  # all terms read the same
    assert_close(
        codes.mean(codes.values), (codes.log_weights.exp()[..., None] * codes.values).sum(0)
    )


def test_a_label_after_the_code_leaves_it_one_draw():
    """q(a|x) q(y|a): the sum over y given a draw is one, so a counts once per particle."""
    world = TwoCodes()
    world.guide = guides.Factored(
        a=guides.Normal(L, {"x": 3}),
        y=guides.Categorical(C, {"a": L}),
        b=guides.Normal(L, {"x": 3, "y": Label(C)}),
    ).double()
    run = run_of(world, bound=IWELBO(3, lam=0))
    a, b = run.codes("a"), run.codes("b")
    assert a.values.shape == (3, 6, L) and not a.labels
    assert_close(a.log_weights.exp(), torch.full((3, 6), 1 / 3).double())
    assert b.values.shape == (C * 3, 6, L)
    q_y = torch.stack([world.guide.factor("y", {"a": z}).probs for z in a.values])  # K x B x C
    assert_close(b.log_weights.exp().reshape(C, 3, 6), q_y.permute(2, 0, 1) / 3)


def test_a_label_is_a_code_with_all_its_values():
    world = TwoCodes()
    run = run_of(world)
    y = run.codes("y")
    assert_close(y.log_weights.exp(), world.guide.factor("y", run.batch).probs.T)
    assert y.values.tolist() == [[c] * 6 for c in range(C)]


def test_only_one_draw_is_asked_for():
    run = run_of(TwoCodes())
    with pytest.raises(UnhandledSite, match="site 'a' has 4 draws per row, expected one: Mine"):
        run.codes("a").only("Mine")
    run = run_of(TwoCodes(), bound=EnumeratedELBO())
    assert run.codes("a").only("Mine").shape == (6, L)
