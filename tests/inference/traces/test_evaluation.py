"""What one run of a pair makes once, and for whom."""

from __future__ import annotations

import gc
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_models.batch import Batch
from ppl_models.inference import TMC, EnumeratedELBO, Evaluation
from ppl_models.inference.traces.drawn import Ask

ROWS = 4


class World(nn.Module):
    """y ~ Cat(3), z ~ N(0, 1); x ~ N(z + y, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.tensor([0.2, -0.1, 0.4]))
        self.decoded = 0

    def model(self, batch: Batch) -> None:
        self.decoded += 1
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=batch["x"])

    def guide(self, batch: Batch) -> None:
        with batch.plate():
            pyro.sample("y", dist.Categorical(logits=self.q))
            pyro.sample("z", dist.Normal(0.5 * batch["x"], 0.8))


@pytest.fixture
def run() -> Evaluation:
    world = World()
    return Evaluation(world.model, world.guide, Batch({"x": torch.linspace(-1, 2, ROWS)}))


def test_something_is_made_once_for_each_owner(run):
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    first, second = Equal(), Equal()
    made = [run.once("it", list, owner) for owner in (first, first, second, None)]
    assert made[0] is made[1]
    assert len({id(thing) for thing in made}) == 3
    assert run.once("it", dict) is made[3]
    assert run.once("other", list) is not made[3]


def test_objectives_of_equal_options_keep_their_own_draws(run):
    first, second = TMC(2), TMC(2)
    assert first.weights(run) is first.weights(run)
    assert first.weights(run) is not second.weights(run)
    plain = EnumeratedELBO()
    assert plain.weights(run) is EnumeratedELBO().weights(run)


def test_what_a_run_made_goes_with_it():
    world, objective = World(), TMC(2)
    run = Evaluation(world.model, world.guide, Batch({"x": torch.zeros(ROWS)}))
    made = weakref.ref(objective.weights(run))
    assert made() is not None
    del run
    gc.collect()
    assert made() is None


def test_the_guide_alone_leaves_the_model_alone(run):
    drawn = run.draw_guide(Ask(5))
    assert run.model.__self__.decoded == 0
    assert set(drawn.sites) == {"y", "z"} and set(drawn.labels) == {"y"}
    assert drawn.sites["z"]["value"].shape == (5, ROWS)


def test_what_is_collected_from_the_guides_draws_is_what_a_run_gives(run):
    torch.manual_seed(0)
    drawn = run.draw_guide(Ask(3))
    parts = run.collect(drawn)
    torch.manual_seed(0)
    whole = run.weights(3)
    assert torch.equal(parts.log_w, whole.log_w)
    assert torch.equal(parts.log_q_labels, whole.log_q_labels)


def test_moved_draws_take_no_closed_form(run):
    drawn = run.draw_guide(Ask(2, analytic_kl=True))
    with pytest.raises(ValueError, match="take no bridge and no analytic KL"):
        run.collect(drawn, {"z": -4})
