"""BatchNorm's statistics, and whatever a network keeps in buffers, are moved by steps alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from worlds.batch_norm import buffers, normalising, normed, rows
from worlds.processes import together

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.data import Dataset
from ppl_models.inference.training.compiled_step import NotCompiled
from ppl_models.quiet import unmoved

STEPS = 6


def fit(pair, data=None, **options):
    options = {"steps": STEPS, "batch_size": 12, "progress": False, "device": "cpu", **options}
    return inference.fit(pair, rows() if data is None else data, **options)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def batch(count=5):
    return Batch({"x": rows(count).sites["x"]})


LOOKS = {
    "check_data": lambda pair: inference.check_data(pair, rows()),
    "check_data of prepared rows": lambda pair: inference.check_data(
        pair, rows(), prepare=lambda b: b.replace({"x": pair.guide.factors["z"].net.net(b["x"])})
        if pair.guide(b) is None else b
    ),
    "debug": lambda pair: inference.debug(pair, batch()),
    "methods": lambda pair: inference.methods(pair, rows(6)),
    "export": lambda pair: inference.Run(pair, "elbo").posterior(rows(6), draws=3, prior_draws=3),
    "verdict": lambda pair: inference.Run(pair, "elbo").check(rows(6), draws=20, prior_draws=3),
    "bound": lambda pair: inference.bound_per_row(pair, rows(6), inference.ELBO()),
    "intervene": lambda pair: pair.intervene(batch(), z=0.0),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("training", [True, False])
def test_a_look_leaves_them(look, training):
    pair = normed()
    pair.train(training)
    pair.decoder[1].eval()  # of a mode of its own
    before, modes = buffers(pair), [m.training for m in pair.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LOOKS[look](pair)
    same(buffers(pair), before)
    assert [m.training for m in pair.modules()] == modes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 50},
        {"precision": "bf16"},
        pytest.param({"compile": True}, marks=pytest.mark.long),
        {"objective": inference.IWELBO(3)},
        {"schedule": "cosine", "clip_norm": 0.1, "optimiser": "sgd(momentum=0.9)"},
    ],
)
def test_each_step_moves_them_once(options):
    pair = normed()
    data = Dataset("normed", rows(), rows(12), rows(12), {"name": "normed"})
    seen = {}  # at the last step: early stopping goes back to its best
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiled)
        run = fit(pair, data, **options, callbacks=(lambda run, step: seen.update(buffers(pair)),))
    counts = {n: int(b) for n, b in seen.items() if "tracked" in n or "calls" in n}
    assert len(counts) == 3 and set(counts.values()) == {STEPS}, counts
    if "patience" in options:
        plain = normed()
        fit(plain, data)
        same(buffers(plain), seen)
        assert len(run.validation["loss"]) == STEPS // 2


class Critic(inference.Objective):
    formula = "c"

    def __init__(self, net):
        super().__init__()
        self.net = net

    def rows(self, run):
        return self.net(run.batch["x"]).square().sum(-1)


def test_a_network_beside_the_pair_is_moved_by_its_steps_alone():
    nets = []
    for patience in (0, 50):
        torch.manual_seed(0)
        net, pair = normalising(3, 2), normed()
        data = Dataset("normed", rows(), rows(12), rows(12), {"name": "normed"})
        player = inference.Player("critic", Critic(net), net)
        objective = pair.objective() + Critic(net)
        stage = inference.Stage(objective, players=(player,))
        fit(pair, data, stages=(stage,), patience=patience)
        nets.append(net)
    assert int(nets[0][1].num_batches_tracked) == STEPS  # on its own turns alone
    same(buffers(nets[1]), buffers(nets[0]))
    assert nets[1].training


def test_validation_is_in_eval_mode():
    pair = normed()
    data = Dataset("normed", rows(), rows(12), rows(12), {"name": "normed"})
    run = fit(pair, data, steps=2, patience=9)
    watch = inference.training.early_stop.Watch(0)
    again = watch.loss(pair.eval(), pair.stages()[0], rows(12), 2)
    assert run.validation["loss"] == [again]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_explains_a_loss_that_is_not_finite(value):
    pair, data = normed(), rows(12)
    data.sites["x"][3, 0] = 1e30  # finite, but not its log density
    before = {}

    def prepare(batch):
        before.update(buffers(pair))
        return batch.replace({"x": batch["x"] + value * (batch.rows == 3).unsqueeze(-1).float()})

    stage = inference.Stage(pair.objective(), prepare=prepare, start=lambda b: None)
    with pytest.raises(inference.NotFinite):
        fit(pair, data, stages=(stage,), batch_size=12)
    counts = {n: int(b) - int(before[n]) for n, b in buffers(pair).items() if "tracked" in n}
    assert set(counts.values()) <= {0, 1}


def test_a_buffer_that_is_set_anew_is_not_lost_in_a_compiled_step():
    pair = normed()
    pair.guide.factors["z"].net.anew = True
    with pytest.warns(NotCompiled, match="buffer 'calls' is set anew in each step"):
        fit(pair, compile=True)
    assert float(pair.guide.factors["z"].net.calls) == STEPS


def test_resumed_bit_for_bit(tmp_path):
    whole, parts = normed(), normed()
    fit(whole)
    fit(parts, out=tmp_path / "run", steps=3)
    parts = normed()
    fit(parts, out=tmp_path / "run", resume=True)
    same(dict(parts.state_dict()), dict(whole.state_dict()))


def test_an_expanded_buffer_is_left_alone():
    pair = normed()
    pair.register_buffer("ones", torch.ones(1).expand(4))
    with unmoved(pair):
        pair.guide(batch())
    assert pair.ones.stride() == (0,)


def test_several_processes_refuse_it(tmp_path):
    outcomes = together(2, tmp_path, lambda rank: fit(normed()))
    for outcome in outcomes:
        assert "is a BatchNorm1d, which would see the rows of one process" in outcome.error
