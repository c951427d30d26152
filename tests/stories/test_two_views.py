"""Two views of an image through the whole house, with and without a term over the rows."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.processes import together
from worlds.stories.two_views import TwoViews
from worlds.whole_life import QUIET, whole_life

import ppl_models as zoo
from ppl_models import Batch, data, guides, inference
from ppl_models.commands.main import main
from ppl_models.spherical import VonMisesFisher, direction
from ppl_models.testing import PairContract

NAME = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'two_views.py'}:TwoViews"
SMALL = {"latent": 4, "channels": (8,), "hidden": (16,), "decay": 0.9}
OPTIONS = {"epochs": 3, "batch_size": 25, "seed": 3, "learning_rate": 0.01}
CONTRASTS = pytest.mark.parametrize("contrast", [0.0, 1.0], ids=["byol", "infonce"])


class TestTwoViews(PairContract):
    pair = NAME


class TestInfoNCE(PairContract):
    pair = NAME
    settings = {"contrast": 0.5}  # noqa: RUF012


def halves(rows: int = 160) -> data.Dataset:
    """Images of 6 x 5 whose upper or lower half is bright, with that as a label."""
    draw = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = 0.3 * draw.random((rows, 6, 5), dtype=np.float32)
    x[y == 0, :3] += 0.6
    x[y == 1, 3:] += 0.6
    return data.from_arrays(x=x, y=y, roles={"x": "covariate"}, splits=(75, 25, 60))


def small(**settings):
    return zoo.build(NAME, halves(), **{**SMALL, **settings})


@CONTRASTS
def test_the_whole_life(contrast, tmp_path, capsys):
    """The evidence is left out with its reason, and the codes tell the halves apart."""
    run, idata = whole_life(lambda: small(contrast=contrast), halves(), tmp_path, **OPTIONS)
    assert run.pair.config.shape == (6, 5, 1) and idata.attrs["x_shape"].tolist() == [6, 5]
    assert set(idata.groups()) == {"posterior", "prior", "constant_data", "training"}
    assert set(idata.constant_data.data_vars) == {"x", "y_true"}
    z = idata.posterior["z"]
    assert z.shape == (1, 20, 60, 4) and abs((z**2).sum(z.dims[-1]) - 1).max() < 1e-5
    found = {finding.name: finding for finding in inference.verdict(idata).findings}
    assert found["evidence"].left_out and "k-hat" not in found
    assert found["spread"].ok and found["probe"].ok and found["rank"].limit == 1.1
    told = ("bound", "penalty(infonce)") if contrast else ("kl(z)",)
    assert set(told) <= run.history.keys()
    main(["check", str(tmp_path / "run"), "--json"])
    plain = json.loads(capsys.readouterr().out)["findings"]
    assert [f["name"] for f in plain if f["left_out"]] == ["evidence"]


@pytest.mark.parametrize(("contrast", "count"), [(0.0, 2), (1.0, 2), (1.0, 3)])
def test_processes_train_as_one_would(contrast, count, tmp_path):
    def train(rank=0):
        pair = small(contrast=contrast)
        run = inference.fit(
            pair, halves(), **{**OPTIONS, "batch_size": 20, "patience": 2}, **QUIET
        )
        return {"history": run.history, "state": pair.state_dict()}

    expected = train()
    for outcome in together(count, tmp_path, train):
        assert not outcome.error, outcome.error
        for column, values in expected["history"].items():
            if column != "seconds":
                found = torch.tensor(outcome.value["history"][column])
                assert_close(found, torch.tensor(values), rtol=1e-5, atol=1e-6)
        for name, value in expected["state"].items():
            assert_close(outcome.value["state"][name], value, rtol=1e-3, atol=1e-4)


def test_a_file_on_the_command_line(tmp_path, capsys):
    """Early stopping looks at views of validation rows; every command serves the pair."""
    rows, out, pair = halves().train, str(tmp_path / "run"), ["--pair", NAME]
    x = rows.sites["x"].numpy().reshape(-1, 6, 5)
    np.savez(tmp_path / "halves.npz", x=x, y=rows.sites["y"].numpy())
    words = ["fit", NAME, "--data", str(tmp_path / "halves.npz"), "--out", out, "--epochs", "2"]
    words += ["--patience", "1", "--contrast", "1", "--batch-size", "10", "--quiet"]
    assert main([*words, "--latent", "4", "--channels", "8", "--hidden", "8"]) == 0
    assert main(["check", out]) in (0, 3)  # 3: not to be trusted, after two epochs
    assert main(["report", out, *pair]) == 0 and (tmp_path / "run" / "report.html").exists()
    assert main(["export", out, *pair, "--draws", "5"]) == 0
    assert "density of codes" in capsys.readouterr().out
    run = inference.load(tmp_path / "run", NAME)
    assert run.pair.config.shape == (6, 5, 1) and run.status == "finished"


@pytest.mark.parametrize("same", [False, True], ids=["views", "as they are"])
@CONTRASTS
def test_validation_rows_are_seen_in_views(contrast, same):
    pair, rows = small(contrast=contrast), halves()
    (stage,) = pair.stages()
    looks = []

    def see(batch):
        batch = batch if same else stage.prepare(batch)
        looks.append((pair.training, batch))
        return batch

    stage = dataclasses.replace(stage, prepare_validation=see)
    run = inference.fit(pair, rows, stages=(stage,), patience=1, **OPTIONS, **QUIET)
    seen = [batch for training, batch in looks if not training and batch.count == 25]
    assert len(seen) == 3 and run.status == "finished"  # a look for each epoch
    for batch in seen:
        assert_close(batch["x"], seen[0]["x"], rtol=0, atol=0)  # the same at each look
        assert ("other" in batch) != same
        assert torch.equal(batch["x"], rows.validation.sites["x"][:]) == same


def test_labels_that_the_story_does_not_know_split_no_batch():
    x, y = halves().train.sites["x"][:].numpy(), np.arange(75) % 2
    some = data.from_arrays(x=x.reshape(-1, 6, 5), y=y, labelled=10, roles={"x": "covariate"})
    pair, counts = zoo.build(NAME, some, **SMALL), set()
    (stage,) = pair.stages()

    def see(batch):
        if pair.training:
            counts.add((batch.count, batch.size))
        return stage.prepare(batch)

    seeing = dataclasses.replace(stage, prepare=see)
    inference.fit(pair, some, stages=(seeing,), **{**OPTIONS, "batch_size": 20}, **QUIET)
    rows = len(some.train)
    assert len(some.train.regimes()) == 2 and (20, rows) in counts
    assert {size for _, size in counts} == {rows}


@torch.no_grad()
def by_loops(pair, batch, draws):
    """-log softmax of kappa mu_i.z_j over all rows j, averaged over draws."""
    mean = direction(pair.predictor(code=pair.net(x=batch["x"])))
    lost = []
    for i in range(batch.count):
        total = 0.0
        for z in draws:
            scores = [pair.config.kappa * float(mean[i] @ z[j]) for j in range(batch.count)]
            total -= scores[i] - math.log(sum(math.exp(s) for s in scores))
        lost.append(total / len(draws))
    return mean.new_tensor(lost)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [75, 750])  # N / B of 10 and 100
@pytest.mark.parametrize("particles", [1, 3])
def test_the_term_is_its_loops(particles, size, dtype):
    pair = small(contrast=0.7).to(dtype)
    (stage,) = pair.stages()
    rows = halves().train.gather(halves().train.regimes()[0], torch.arange(8)).to(dtype)
    batch = stage.prepare(Batch(rows, rows.rows, size=size))
    objective = pair.objective(inference.ELBO(particles=particles))
    torch.manual_seed(0)
    told = objective.loss_by_part(pair.model, pair.guide, batch)
    torch.manual_seed(0)
    draws = objective.run(pair.model, pair.guide, batch).codes("z").values
    expected = 0.7 * size * by_loops(pair, batch, draws).mean()  # all rows of the data
    found = dict(zip(told.names, told.values, strict=True))["penalty(infonce)"]
    assert draws.shape == (particles, 8, 4)
    assert_close(found.detach(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("bound", [inference.ELBO, inference.EnumeratedELBO])
@pytest.mark.parametrize("size", [25, 250])  # N / B of 1 and 10
def test_a_closed_kl_is_all_there_is(size, bound, dtype):
    """Nothing is observed, so that log p(x | ...) has no term."""
    pair, rows = small().to(dtype), next(halves().validation.batches()).to(dtype)
    batch = Batch(rows, rows.rows, size=size)
    loc = direction(pair.predictor(code=pair.net(x=batch["x"])))
    p = VonMisesFisher(loc, loc.new_tensor(pair.config.kappa))
    expected = torch.distributions.kl_divergence(pair.guide.factor("z", batch), p)
    told = bound(kl="analytic").loss_by_part(pair.model, pair.guide, batch)
    assert_close(told.total, size * expected.mean())
    found = dict(zip(told.names, told.values, strict=True))
    assert_close(found["kl(z)"], told.total.detach())
    sampled = bound(particles=500).per_datum(pair.model, pair.guide, batch)
    q = pair.guide.factor("z", batch)
    z = q.sample((500,))
    error = (q.log_prob(z) - p.log_prob(z)).std(0) / math.sqrt(500)
    assert bool(((sampled - expected).abs() < 5 * error).all())


def test_what_applies():
    pair = small(contrast=1.0)
    assert inference.debug(pair, halves()).ok
    found = {method.name: method for method in inference.methods(pair, halves())}
    assert found["elbo"].applies and found["iwelbo"].applies
    for name in ("nuts", "importance", "log_evidence"):
        assert "density of codes" in found[name].reason
    assert found["emphasis"].reason == "no site of the data is scored"
    with pytest.raises(ValueError, match="density of codes"):
        inference.sbc(pair, 50, covariates=next(halves().test.batches()))
    assert pair.objective().across_rows
    with pytest.raises(ValueError, match="its rows look at each other"):
        pair.objective().per_datum(pair.model, pair.guide, next(halves().train.batches()))


class Declared(TwoViews):
    """Views on the card, which no table has."""

    card = dataclasses.replace(
        TwoViews.card, covariates={"x": "image (D)", "other": "its other view (D)"}
    )


class Insists(TwoViews):
    """The other view taken without asking whether it is there."""

    def model(self, batch):
        """p(z | x), and nothing of the other view."""
        assert batch["other"] is not None
        super().model(batch)


class Demands(TwoViews):
    """A factor that is given the other view."""

    def __init__(self, config):
        super().__init__(config)
        size = math.prod(config.shape)
        self.guide = guides.Factored(z=guides.VonMisesFisher(config.latent, {"other": size}))

    def stages(self, bound=None):
        """Without the target."""
        steps = (data.Flip(),)
        prepare = data.views("x", ("x", "other"), steps, self.config.shape)
        return (inference.Stage(self.objective(bound), prepare=prepare),)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            Declared,
            "lacks the covariate 'other' .*; a stage's prepare makes it, in training",
        ),
        (
            Insists,
            "takes 'other', which a stage's prepare .*: the batch has no site 'other'",
        ),
        (Demands, r"takes 'other', which a stage's prepare .* factor 'z' is given \['other'\]"),
    ],
)
def test_what_exists_in_training_alone_is_told_before_it(kind, words, tmp_path):
    pair = kind(kind.Config(shape=(6, 5, 1), **SMALL))
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    with pytest.raises(ValueError, match=words) as caught:
        inference.fit(pair, halves(), out=tmp_path / "run", **OPTIONS, **QUIET)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    for name, value in pair.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_batch_names_the_site_that_it_lacks():
    batch = next(halves().train.batches())
    with pytest.raises(KeyError, match=r"the batch has no site 'other', it has \['x', 'y'\]"):
        batch["other"]
    assert batch.get("other", batch["x"]) is batch["x"]
