"""The prior over labels: what each kind comes to, what is learnt, kept and refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import re

import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.data import Table
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.training.saved_pair import build_saved
from ppl_models.parts.label_prior import LabelPrior

COUNTS = {"a": 9, "b": 5, "c": 1}  # rows of ten with the value 1
SMALL = {"hidden": (4,), "labels": tuple(COUNTS), "style": 2}


def thirds(hidden=0):
    """Ten rows with three binary labels, and rows in which these are hidden."""
    labels = {n: torch.tensor([1] * k + [0] * (10 - k) + [0] * hidden) for n, k in COUNTS.items()}
    seen = torch.arange(10 + hidden) < 10
    sites = {"x": torch.rand(10 + hidden, 4), **labels}
    return Table("thirds", sites, observed=dict.fromkeys(labels, seen))


def classed(counts, name="classed", classes=None):
    """Rows with one label, as many of each class as said."""
    y = torch.tensor([code for code, count in enumerate(counts) for _ in range(count)])
    torch.manual_seed(0)
    known = {"y": classes} if classes else None
    return Table(name, {"x": torch.rand(len(y), 4), "y": y}, classes=known)


def log_prior(pair, **labels):
    """log p of all labels together, per row."""
    batch = Batch({n: torch.as_tensor(v) for n, v in labels.items()})
    trace = poutine.trace(pair.model).get_trace(batch)
    return sum(trace.nodes[n]["fn"].log_prob(batch[n]) for n in labels)


# ---- each kind ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 0.9 * 0.5 * 0.1),  # CCVAE's default
        ({"label_prior": "frequencies"}, 0.9 * 0.5 * 0.1),
        ({"label_prior": "uniform"}, 1 / 8),
        ({"label_prior": "learnt"}, 1 / 8),
        ({"label_prior": (0.25, 0.75, 0.5, 0.5, 0.2, 0.8)}, 0.75 * 0.5 * 0.8),
    ],
)
def test_ccvae_scores_labels_with_their_frequencies_unless_told_otherwise(
    dtype, hidden, settings, value
):
    pair = zoo.build("ccvae", thirds(hidden), **SMALL, **settings).to(dtype)
    found = log_prior(pair, a=[1], b=[1], c=[1])
    assert found.dtype == dtype
    assert_close(found, torch.tensor([value], dtype=dtype).log(), rtol=1e-6, atol=0)
    if dtype == torch.float64:
        assert abs(found.item() - math.log(value)) < 1e-14


def test_without_data_the_frequencies_are_uniform_and_the_config_says_so():
    pair = zoo.build("ccvae")
    assert pair.config.label_prior == "uniform"
    # A run of before the setting was there, whose config lacks it, had a uniform prior.
    old = {k: v for k, v in dataclasses.asdict(pair.config).items() if k != "label_prior"}
    for made in (pair, build_saved("ccvae", old, room=10_000_000)):
        assert_close(log_prior(made, bar=[0], blob=[1]), torch.tensor([-math.log(4)]))


def test_frequencies_go_by_names_when_other_data_list_the_classes_in_another_order():
    rows = classed((6, 2, 1), classes=("ant", "bee", "cow"))
    pair = zoo.build("m2", data.Dataset("d", rows, rows, rows, {}), label_prior="frequencies")
    other = classed((1, 6, 2), classes=("cow", "ant", "bee"))
    brought = pair.schema.bring(other)
    shares = {"ant": 6 / 9, "bee": 2 / 9, "cow": 1 / 9}
    wanted = torch.tensor([shares[other.classes["y"][int(c)]] for c in other.sites["y"]])
    assert_close(log_prior(pair, y=brought.sites["y"]), wanted.log())


def test_what_is_given_is_as_exact_as_the_numbers_whatever_the_pair_was_cast_to():
    prior = LabelPrior((0.1, 0.3, 0.6), {"y": 3})
    cast = [prior.float(), prior.half().double(), copy.deepcopy(prior), pickle.loads(
        pickle.dumps(prior.double()))]  # fmt: skip
    assert_close(cast[0]("y").probs, torch.tensor([0.1, 0.3, 0.6], dtype=cast[0].logits.dtype))
    for module in cast[1:]:
        exact = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64).log()
        assert_close(module.double()("y").logits, exact, rtol=1e-15, atol=0)
    assert not prior.state_dict() and not list(prior.parameters())


# ---- bounds ------------------------------------------------------------------------------

PAIRS = ("m2", "m1m2", "partially_specified", "mmdcgm", "p3vae", "clsvae")


def counted(name):
    """A small pair with a learnt prior, and labelled rows 6, 3, 1 (or 7, 3) of its classes."""
    counts = (7, 3) if name == "clsvae" else (6, 3, 1)
    sizes = {} if name == "clsvae" else {"classes": len(counts)}
    pair = zoo.build(name, data_dim=4, hidden=(3,), label_prior="learnt", **sizes).double()
    rows = classed(counts).sites
    # Binary pixels, as some of the pairs need them.
    sites = {"x": rows["x"].double().round(), "y": rows["y"]}
    return pair, sites, torch.tensor(counts).double()


def gradient(pair, batch):
    torch.manual_seed(1)
    loss = EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    return torch.autograd.grad(loss, pair.label_prior.logits)[0]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("scale", [1, 10])
def test_a_learnt_prior_is_best_at_the_frequencies_of_labelled_rows(name, scale):
    pair, sites, counts = counted(name)
    batch = Batch(sites, size=10 * scale)
    logits, C = pair.label_prior.logits, len(counts)
    assert_close(gradient(pair, batch), scale * (10 / C - counts))
    logits.data.copy_((counts / 10).log() + 3.0)  # whatever their sum
    assert_close(gradient(pair, batch), torch.zeros(C).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["m2", "mmdcgm", "p3vae"])
@pytest.mark.parametrize("scale", [1, 10])
def test_unlabelled_rows_pull_a_learnt_prior_to_the_mean_of_their_labels(name, scale):
    pair, sites, counts = counted(name)
    batch = Batch({"x": sites["x"]}, size=10 * scale)
    q = pair.guide.factor("y", batch).probs.sum(0).detach()
    assert_close(gradient(pair, batch), scale * (10 / len(counts) - q))


@pytest.mark.training
def test_training_brings_a_learnt_prior_to_the_frequencies():
    rows = classed((60, 30, 10))
    pair = zoo.build("m2", rows, hidden=(3,), latent=2, label_prior="learnt")
    inference.fit(
        pair, rows, epochs=400, batch_size=100, learning_rate=2e-2, progress=False, seed=0
    )
    # The full batch has no noise in p(y): 5 seeds miss by rounding.
    found = pair.label_prior("y").probs
    assert_close(found, torch.tensor([0.6, 0.3, 0.1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("label_prior", [(0.2, 0.8, 0.5, 0.5, 0.1, 0.9), "learnt"])
def test_missing_labels_are_summed_out_under_any_prior(label_prior):
    pair = zoo.build("ccvae", thirds(), **SMALL, label_prior=label_prior).double()
    if label_prior == "learnt":
        pair.label_prior.logits.data.copy_(torch.randn(6))
    x = torch.rand(3, 4).double()
    batch = Batch({"x": x})
    torch.manual_seed(2)
    run = inference.Evaluation(pair.model, pair.guide, batch)
    objective = EnumeratedELBO()
    guide = objective.weights(run).guide
    loss = objective.rows(run)
    for row in range(3):
        codes = {n: guide.nodes[n]["value"].reshape(3, -1)[row] for n in pair.sizes}
        bound = pair.likelihood(pair.decoder(**codes)).log_prob(x[row])
        bound = bound + torch.distributions.Normal(0.0, 1.0).log_prob(codes["z_s"]).sum()
        for n, z in codes.items():
            bound = bound - pair.guide.factor(n, {"x": x[row]}).log_prob(z)
        for n in COUNTS:
            y, z = torch.arange(2), codes[f"z_{n}"]
            log_q = pair.guide.factor(n, {f"z_{n}": z}).log_prob(y)
            inner = log_prior(pair, **{n: y}) + pair.priors[n](y).log_prob(z) - log_q
            bound = bound + (log_q.exp() * inner).sum()
        assert_close(-loss[row], bound)


# ---- kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("label_prior", [None, "learnt", (0.3, 0.7, 0.5, 0.5, 0.2, 0.8)])
def test_a_run_comes_back_without_its_data(tmp_path, label_prior):
    told = {} if label_prior is None else {"label_prior": label_prior}
    rows = thirds(5)
    pair = zoo.build("ccvae", rows, particles=2, **SMALL, **told)
    options = {"progress": False, "batch_size": 5, "learning_rate": 0.05}
    inference.fit(pair, rows, out=tmp_path / "run", epochs=2, **options)
    saved = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["label_prior"]
    if label_prior is None:
        assert saved == [0.1, 0.9, 0.5, 0.5, 0.9, 0.1]
    run = inference.load(tmp_path / "run")
    assert run.pair.config == pair.config
    ones = {name: [1] for name in COUNTS}
    assert torch.equal(log_prior(run.pair, **ones), log_prior(pair, **ones))
    if label_prior == "learnt":  # it has been trained
        assert not torch.equal(log_prior(run.pair, **ones), torch.tensor([-math.log(8)]))
    # Rows with other frequencies make another pair, which the run does not go on with.
    other = rows.replace(sites={**rows.sites, "a": 1 - rows.sites["b"].clamp(min=0)})
    again = zoo.build("ccvae", other, particles=2, **SMALL, **told)
    if label_prior is None:
        with pytest.raises(inference.RunFolderError, match="label_prior"):
            inference.fit(again, rows, out=tmp_path / "run", resume=True, epochs=3, **options)


# ---- refused -----------------------------------------------------------------------------

GIVEN = "label_prior is to be frequencies, but "


@pytest.mark.parametrize(
    ("label_prior", "words"),
    [
        ("uni", "unknown label prior 'uni': did you mean 'uniform'? expected one of frequencies"),
        (3, "label_prior is 3, expected 'uniform', 'frequencies', 'learnt' or a number per class"),
        ((), "label_prior is (), expected 'uniform', 'frequencies', 'learnt' or a number per"),
        ((0.5, "b"), "label_prior is (0.5, 'b'), expected 'uniform', 'frequencies', 'learnt' or"),
        ((True, 0), "label_prior is (True, 0), expected 'uniform', 'frequencies', 'learnt' or"),
        ((0.5, 0.5), "label_prior has 2 numbers, expected 3, one per class: 3 of y"),
        ((0.5, 0.5, 0), "label_prior gives class 2 of y the probability 0, expected one above 0"),
        ((0.7, -0.2, 0.5), "label_prior gives class 1 of y the probability -0.2, expected one"),
        ((math.nan, 0.5, 0.5), "label_prior gives class 0 of y the probability nan, expected one"),
        ((0.3, 0.3, 0.3), "label_prior gives y probabilities that sum to 0.9, expected 1"),
        ((0.3, 0.3, 0.40001), "label_prior gives y probabilities that sum to 1.00001, expected 1"),
    ],
)  # fmt: skip
def test_a_prior_that_is_none_is_one_line(label_prior, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}[^\n]*$"):
        zoo.build("m2", classes=3, label_prior=label_prior)
    # Rounded numbers are none the worse.
    zoo.build("m2", classes=3, label_prior=(0.3333333, 0.3333333, 0.3333334))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, GIVEN + "m2 is built without rows to count; expected 'uniform', 'learnt' or a"),
        (classed((5, 0, 2), classes=("ant", "bee", "cow")),
         GIVEN + "class 'bee' of site 'y' has no labelled row in classed; expected 'uniform'"),
        (classed((5, 2)).hide({"y": torch.zeros(7, dtype=torch.bool)}),
         GIVEN + "site 'y' is observed in no row of classed; expected 'uniform', 'learnt' or a"),
        (classed((5, 2)).replace(sites={"x": torch.rand(7, 4), "y": torch.rand(7)}, classes={}),
         GIVEN + "site 'y' of classed holds vectors, expected labels; expected 'uniform'"),
    ],
)  # fmt: skip
def test_frequencies_that_rows_do_not_have_are_one_line(rows, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}[^\n]*$"):
        zoo.build("m2", rows, classes=3, label_prior="frequencies")


def test_a_module_of_its_own_refuses_kinds_that_do_not_exist():
    with pytest.raises(ValueError, match=r"^unknown label prior 'learned': did you mean 'learnt'"):
        LabelPrior("learned", {"y": 2})


def test_probabilities_of_several_labels_are_checked_label_by_label():
    with pytest.raises(ValueError, match=r"^label_prior gives b probabilities that sum to 1\.1"):
        zoo.build("ccvae", thirds(), **SMALL, label_prior=(0.4, 0.6, 0.5, 0.6, 0.5, 0.4))
    with pytest.raises(ValueError, match=r"expected 6, one per class: 2 of a, 2 of b, 2 of c$"):
        zoo.build("ccvae", thirds(), **SMALL, label_prior=(0.9, 0.5, 0.1))
