"""What a guide is known by: its labels are surveyed once, however it is handed over."""

from __future__ import annotations

import functools
import gc

import pytest
import torch
from torch import nn
from worlds.batch_norm import buffers, normed, rows

from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.traces import dry_run


class Story(nn.Module):
    """A pair whose guide is a method, made anew each time that it is read."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def model(self, batch):
        return self.pair.model(batch)

    def guide(self, batch):
        return self.pair.guide(batch)


def as_method(pair):
    story = Story(pair)
    return lambda: story.guide


def as_function(pair):
    def guide(batch):
        return pair.guide(batch)

    return lambda: guide


def as_lambda(pair):
    guide = lambda batch: pair.guide(batch)  # noqa: E731
    return lambda: guide


def as_partial(pair):
    guide = functools.partial(Story.guide, Story(pair))
    return lambda: guide


def as_module(pair):
    return lambda: pair.guide


KINDS = (as_method, as_function, as_lambda, as_partial, as_module)


@pytest.fixture
def looks(monkeypatch):
    found = []
    look = dry_run._look
    monkeypatch.setattr(dry_run, "_look", lambda run: found.append(1) or look(run))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3])
def test_a_guide_is_surveyed_once(looks, kind, bits):
    pair = normed(bits)
    pair.eval()
    guide, objective = kind(pair), EnumeratedELBO(combinations=3)  # 2 bits feed one term
    batch = Batch({"x": rows().sites["x"]})
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        try:
            losses.append(objective.loss(pair.model, guide(), batch))
        except ValueError as error:
            losses.append(str(error))
    assert len(looks) == 1
    assert losses[0] == losses[1] == losses[2]


def test_what_is_known_goes_with_its_owner():
    pair = normed(2)
    story = Story(pair)
    owner = id(story)
    EnumeratedELBO().loss(story.model, story.guide, Batch({"x": rows().sites["x"]}))
    assert owner in dry_run._known
    del story
    gc.collect()
    assert owner not in dry_run._known


def test_guides_of_one_owner_are_told_apart():
    story = Story(normed(2))
    for guide in (story.guide, story.model, story.guide, story.model):
        found = dry_run._surveys(guide)
        assert found.setdefault("seen", guide.__func__) is guide.__func__


@pytest.mark.parametrize("bits", [3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_are_moved_by_the_run_alone(bits, dtype):
    """A run that breaks at a large grid, and the survey, leave BatchNorm's statistics alone."""
    pair, twin = normed(bits, dtype), normed(bits, dtype)
    batch = Batch({"x": rows().sites["x"].to(dtype)})
    losses = []
    for which, limit in ((pair, 4), (twin, 4096)):  # two neighbours of the chain meet in a term
        torch.manual_seed(0)
        objective = EnumeratedELBO(combinations=limit)
        losses += [objective.loss(which.model, which.guide, batch) for _ in range(2)]
    assert losses[:2] == losses[2:]
    for name, value in buffers(twin).items():
        assert torch.equal(buffers(pair)[name], value), name
    assert float(pair.guide.factors["z"].net.calls) == 2
