"""What a guide owes: one sentence where it lacks something, and what needs nothing of it."""

from __future__ import annotations

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, guides, inference
from ppl_models.batch import Batch
from ppl_models.guides.protocol import listed, offering
from ppl_models.inference import (
    CharacteristicELBO,
    Classification,
    EnumeratedELBO,
    Evaluation,
    Hinge,
    SelfNormalisedELBO,
    UnhandledSite,
)

ROWS = 4
SENTENCE = (
    r"factor is wanted for site .*'y'.*but function has no .*guides.Factored and guides.Mixed"
)


def m2():
    return zoo.build("m2", seed=0, data_dim=3, classes=2, latent=2, hidden=(4,))


def batch(*names):
    sites = {"x": torch.linspace(0, 1, 3 * ROWS).reshape(ROWS, 3), "y": torch.arange(ROWS) % 2}
    return Batch(sites, observed={"x": ROWS, "y": ROWS}).only(*names)


def plain(pair):
    """The pair with a function for its guide, which has nothing but its call."""
    guide = pair.guide
    del pair.guide
    pair.guide = lambda batch: guide(batch)
    return pair


class Scored:
    """A guide of one's own, with factors alone."""

    def __init__(self, guide):
        self.guide = guide

    def __call__(self, batch):
        return self.guide(batch)

    def factor(self, name, values):
        return self.guide.factor(name, values)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pair: Evaluation(pair.model, pair.guide, batch("x", "y")).factor("y"),
        lambda pair: Classification("y").per_datum(pair.model, pair.guide, batch("x", "y")),
        lambda pair: Hinge("y").per_datum(pair.model, pair.guide, batch("x", "y")),
        lambda pair: SelfNormalisedELBO().per_datum(pair.model, pair.guide, batch("x", "y")),
        lambda pair: inference.label_probabilities(pair, data.Table("t", dict(batch("x", "y")))),
    ],
)
def test_a_plain_function_is_refused_with_the_same_sentence(ask):
    with pytest.raises(TypeError, match=SENTENCE):
        ask(plain(m2()))


def test_what_only_traces_the_guide_takes_a_plain_function():
    for names in (("x",), ("x", "y")):
        found = []
        for pair in (m2(), plain(m2())):
            torch.manual_seed(1)
            objective = inference.EnumeratedELBO()
            found.append(objective.per_datum(pair.model, pair.guide, batch(*names)))
        assert torch.equal(*found)
    table = data.Table("t", dict(batch("x", "y")))
    by_draws = [
        inference.label_probabilities(pair, table, particles=3) for pair in (m2(), plain(m2()))
    ]
    assert torch.equal(*by_draws)


def test_a_guide_with_factors_alone_has_its_label_scored():
    pair = m2()
    own, rows = Scored(pair.guide), batch("x", "y")
    found = [Classification("y").per_datum(pair.model, guide, rows) for guide in (pair.guide, own)]
    assert torch.equal(*found)
    assert listed(own) is None
    assert offering(own, "y") is own
    with pytest.raises(TypeError, match="'y', but Scored has no upstream"):
        offering(own, "y", needs=("factor", "upstream"))


def test_mixed_offers_what_its_rows_do():
    pair = zoo.build("bayesian_ssl", seed=0, data_dim=3, classes=2, latent=2, hidden=(4,))
    assert isinstance(pair.guide, guides.Mixed)
    assert pair.guide.given == {"y": ("x",), "z": ("x", "y")}
    x = batch("x")
    scores = pair.guide.scores("y", x)
    torch.testing.assert_close(scores.log_softmax(-1), pair.guide.factor("y", x).logits)


@pytest.mark.parametrize(
    ("objective", "summed"),
    [
        (SelfNormalisedELBO(3), EnumeratedELBO(3)),
        (CharacteristicELBO(32), EnumeratedELBO(1)),  # one draw goes through the decoder
    ],
)
def test_weights_by_row_and_a_draw_that_rows_share_do_not_go_together(objective, summed):
    pair = zoo.build("bayesian_ssl", seed=0, data_dim=3, classes=2, latent=2, hidden=(4,))
    with pytest.raises(UnhandledSite, match="site 'w' stands outside the data plate"):
        objective.per_datum(pair.model, pair.guide, batch("x", "y"))
    # Without labels no draw is weighted, and both are the bound with labels summed out.
    losses = []
    for one in (objective, summed):
        torch.manual_seed(0)
        losses.append(one.per_datum(pair.model, pair.guide, batch("x")))
    torch.testing.assert_close(*losses)


def test_scores_are_those_of_classes():
    guide = m2().guide
    with pytest.raises(ValueError, match=r"label 'z': .*z=guides.Categorical.*got Normal"):
        guide.scores("z", batch("x", "y"))
    with pytest.raises(ValueError, match=r"label 'q': .*got NoneType"):
        guide.scores("q", batch("x"))
