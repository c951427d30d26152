"""Pairs, objectives, runs, tables and posteriors are copied, pickled and sent to processes."""

from __future__ import annotations

import copy
import functools
import io
import json
import multiprocessing
import pickle

import pytest
import torch
from torch.testing import assert_close
from worlds.sent import use

import ppl_models as zoo
from ppl_models import catalogue, data, inference
from ppl_models.inference import EnumeratedELBO, Penalty, Stage
from ppl_models.inference.posterior import export
from ppl_models.testing.cases import small_settings

OWN = """
import pyro
import pyro.distributions as dist
from dataclasses import dataclass
from torch import nn
from ppl_models import Card, Config, Pair, guides, setting


@dataclass(frozen=True)
class MineConfig(Config):
    size: int = setting(3, "size of x", from_data="x")


class Net(nn.Linear):
    pass


class Mine(Pair):
    Config = MineConfig
    card = Card("mine", "-", "-", 2026, "-", "-", {"x": "data"}, {"z": "code"})

    def __init__(self, config):
        super().__init__(config)
        self.net = Net(2, config.size)
        self.guide = guides.Factored(z=guides.Normal(2, {"x": config.size}))

    def model(self, batch):
        zero = self.like().new_zeros(2)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=batch.get("x"))
"""


def by_torch(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


COPIES = pytest.mark.parametrize("copied", [by_pickle, copy.deepcopy, by_torch])


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=60, validation=20, test=20, labelled=30)


@pytest.fixture(scope="module")
def run(digits):
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    shown = []
    callbacks = (lambda run, step: shown.append(step),)
    return inference.fit(pair, digits, epochs=1, progress=False, callbacks=callbacks)


@COPIES
@pytest.mark.parametrize("paper", catalogue.names())
def test_every_paper_is_copied(paper, copied):
    pair = catalogue.build(paper, **small_settings(catalogue.get(paper)))
    other = copied(pair)
    assert (other.source, other.config) == (pair.source, pair.config)
    for name, value in pair.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for stage, same in zip(pair.stages(), other.stages(), strict=True):
        assert repr(stage.objective) == repr(same.objective)
        assert repr(copied(stage).objective) == repr(stage.objective)


@COPIES
def test_runs_and_rows_are_copied(run, digits, copied):
    other = copied(run)
    assert other.history == run.history
    assert other.error(digits.test) == run.error(digits.test)
    rows = copied(digits)
    assert torch.equal(rows.train.sites["x"], digits.train.sites["x"])
    assert rows.recipe == digits.recipe
    assert rows.test.classes == digits.test.classes
    (batch,) = digits.test.batches()
    assert torch.equal(copied(batch)["x"], batch["x"])


def scaled(module, given, made):
    """A hook of a module."""
    return 2 * made


@COPIES
def test_hooks_of_networks_go_along(digits, copied):
    pair = zoo.build("vae", digits, hidden=(8,), latent=2)
    code = torch.ones(1, 2)
    plain = pair.decoder(z=code)
    pair.decoder.register_forward_hook(scaled)
    assert_close(copied(pair).decoder(z=code), 2 * plain)


def squared(run):
    """A term of a loss."""
    return 0 * run.batch.rows.float()


def test_functions_of_objectives_and_stages():
    """Python pickles functions by their names: those without one are copied, and told."""
    by_name = EnumeratedELBO() + Penalty(squared, "none")
    assert by_pickle(by_name) == by_name
    part = Stage(by_name, start=functools.partial(print, "start"))
    assert by_pickle(part).start.args == ("start",)

    def local(run):
        return squared(run)

    for function in (local, lambda run: squared(run)):
        objective = EnumeratedELBO() + Penalty(function, "none")
        assert copy.deepcopy(objective) == objective
        with pytest.raises((pickle.PicklingError, AttributeError), match=r"<lambda>|<locals>"):
            pickle.dumps(objective)


@pytest.mark.parametrize("copied", [by_pickle, copy.deepcopy, by_torch])
def test_pairs_of_a_file_are_found_again(tmp_path, copied, monkeypatch):
    (tmp_path / "mine_of_copies.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    pair = catalogue.build("mine_of_copies.py:Mine")
    other = copied(pair)
    assert type(other) is type(pair)
    assert torch.equal(other.net.weight, pair.net.weight)
    assert other.source == pair.source


def test_a_process_uses_what_it_is_sent(run, digits, tmp_path, monkeypatch):
    """One process, started anew from another folder than that of the relative paths."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    (here / "mine_sent.py").write_text(OWN)
    monkeypatch.chdir(here)
    data.write(digits, "digits.h5")
    table = data.load("digits.h5").train
    own = catalogue.build("mine_sent.py:Mine")
    posterior = run.posterior(digits.test, draws=5, path="p.nc")
    assert export.load("p.nc")["posterior"].identical(posterior["posterior"])
    objective = EnumeratedELBO(particles=2) + 0.5 * inference.Classification("y")
    given = (run.pair, own, objective, run, table, posterior)
    use("expected.json", *given)
    monkeypatch.chdir(elsewhere)
    process = multiprocessing.get_context("spawn").Process(
        target=use, args=(str(elsewhere / "found.json"), *given)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    expected, found = (
        json.loads(path.read_text()) for path in (here / "expected.json", elsewhere / "found.json")
    )
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
