"""Influence of rows: by hand, by differences of losses, and in closed form."""

from __future__ import annotations

import math

import arviz as az
import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.neighbors import KernelDensity
from torch import nn
from worlds import batch_norm
from worlds.exact_guides import Mixture
from worlds.factors import ClosedForm, D, Factors, L, N, NoConfig, by_hand, factors, table
from worlds.linear import LinearConfig, LinearPair
from worlds.pages import run_page

import ppl_models as zoo
from ppl_models import inference
from ppl_models.data import Table
from ppl_models.inference import metrics
from ppl_models.inference.metrics import row_gradients
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.inference.posterior.groups import groups_of


def at(pair, rate=0.1, steps=3, **more):
    return metrics.Checkpoint(pair.state_dict(), rate, steps, **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_influence_is_the_dot_product_by_hand(dtype):
    first, second = factors(dtype, 0), factors(dtype, 1)
    train, test = table(dtype=dtype), table(4, 2, dtype)
    given = (at(first, 0.2, 3), at(second, 0.05, 7))
    found = metrics.influence(first, train, test, given, 1, ClosedForm(), chunk=5)
    wanted, own = np.zeros((4, N)), np.zeros(N)
    for pair, weight in ((first, 0.2 * 3 / N), (second, 0.05 * 7 / N)):
        g, h = by_hand(pair, train.sites["x"]), by_hand(pair, test.sites["x"])
        wanted += weight * h @ g.T
        own += weight * (g**2).sum(1)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(found.influence.values, wanted, **tolerance)
    np.testing.assert_allclose(found.self_influence.values, own, **tolerance)
    assert found.influence.dims == ("test", "train")
    assert found.train.values.tolist() == train.numbers.tolist()
    assert found.test.values.tolist() == test.numbers.tolist()
    # A part of the parameters has its part of the product.
    parts = [
        metrics.influence(first, train, test, given, 1, ClosedForm(), parameters=(name,))
        for name in ("decoder", "guide.factors.z")
    ]
    np.testing.assert_allclose(sum(p.influence.values for p in parts), wanted, **tolerance)
    assert found.attrs["gradient_size"] == sum(p.attrs["gradient_size"] for p in parts)
    np.testing.assert_allclose(parts[0].influence.values @ np.ones(N), (
        sum(
            w * by_hand(p, test.sites["x"])[:, -D * L - D :]
            @ by_hand(p, train.sites["x"])[:, -D * L - D :].sum(0)
            for p, w in ((first, 0.2 * 3 / N), (second, 0.05 * 7 / N))
        )
    ), rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize(("schedule", "batch_size"), [("linear", N), ("constant", N // 3)])
def test_the_influences_of_all_rows_add_up_to_the_fall_of_the_loss(schedule, batch_size):
    """So the weights are those of the steps: a factor B would be off by 4 or 12."""
    pair, train, test = factors(), table(), table(6, 2)
    kept = metrics.Checkpoints(every=5)
    before = inference.loss_per_row(pair, test, ClosedForm())
    inference.fit(
        pair, train, ClosedForm(), optimiser="sgd", learning_rate=1e-4, schedule=schedule,
        epochs=90 * batch_size // N, batch_size=batch_size, device="cpu", progress=False,
        callbacks=(kept,),
    )  # fmt: skip
    fall = (before - inference.loss_per_row(pair, test, ClosedForm())).numpy()
    assert [c.steps for c in kept] == [5] * 18
    mean = 1e-4 if schedule == "constant" else 1e-4 * (1 - 44.5 / 90)
    assert np.mean([c.rate for c in kept]) == pytest.approx(mean, rel=0.02)
    found = metrics.influence(pair, train, test, kept, 1, ClosedForm())
    told = found.influence.values.sum(1)
    # First order: what is left is the curvature over 5 steps, and which rows a batch has.
    np.testing.assert_allclose(told, fall, rtol=0.05, atol=0.02 * np.abs(fall).max())
    assert found.attrs["weights"] == "those of the steps"
    assert found.attrs["rates"] == [c.rate for c in kept]


def test_every_row_has_noise_of_its_own_on_each_side():
    """Products are those of the expected gradients, also of a row with itself."""
    pair, one, copies = factors(), table(1), 400
    alike = one.rows([0] * copies)
    g = by_hand(pair, one.sites["x"])
    exact = 0.1 * 3 / copies * float((g * g).sum())

    def ask(rows, seed=0, **options):
        bound = inference.ELBO(kl="analytic")
        return metrics.influence(pair, alike, rows, [at(pair)], 4, bound, seed=seed, **options)

    found = ask(alike)
    products = found.influence.values
    told = {
        "itself": np.diag(products),
        "another of its chunk": np.diag(products, 1),
        "the same place of another chunk": np.diag(products, 64),
        "two halves": found.self_influence_unbiased.values,
    }
    # Standard errors off, seeds 0 to 9: 1.8 at most.
    for what, values in told.items():
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - exact) < 4.5 * error, what
    # The squared length of a mean is too high, as products with shared noise are: by 7.0 to 8.9.
    length = found.self_influence.values
    assert length.mean() > exact + 5 * length.std(ddof=1) / math.sqrt(copies)
    # A seed tells all numbers, and nobody else's are touched.
    state = torch.get_rng_state()
    few = alike.rows([0, 1])
    xr.testing.assert_identical(ask(few, 3), ask(few, 3))
    assert np.abs(ask(few, 3).influence - ask(few, 4).influence).min() > 0
    assert torch.equal(state, torch.get_rng_state())


def one_by_one(monkeypatch):
    def refuse(self, batch, draws):
        raise RuntimeError("vmap has no rule for it")

    monkeypatch.setattr(row_gradients.RowGradients, "_together", refuse)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("balance", ["", "y"])
def test_labels_are_summed_out_and_kinds_weigh_as_in_training(at_once, balance, monkeypatch):
    if not at_once:
        one_by_one(monkeypatch)
    kinds = {True: 10 / 4, False: 10 / 6} if balance else {True: 1, False: 1}  # labelled or not
    objective = inference.Weighted(inference.EnumeratedELBO(), balance)
    pair = Mixture()
    draw = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(10, 1, generator=draw, dtype=torch.float64)
    known = torch.arange(10) % 3 == 0
    train = Table("train", {"x": x, "y": torch.arange(10) % 3}, {"y": known})
    test = Table("test", {"x": x[:3] + 0.5})
    found = metrics.influence(pair, train, test, [at(pair, 1.0, 10)], 1, objective)

    def gradients(rows):
        """Minus log p(x), or minus log p(x, y), as the guide is exact."""
        grads = []
        for place in range(len(rows)):
            logits = pair.logits(rows.sites["x"][place])  # log p(x, y) up to what has no gradient
            logits = logits - pair.prior.logsumexp(0)
            labelled = "y" in rows.sites and bool(rows.observed["y"][place])
            y = rows.sites["y"][place] if labelled else None
            loss = -(logits[y] if labelled else logits.logsumexp(0))
            loss = kinds[labelled] * loss
            found = torch.autograd.grad(loss, [pair.prior, pair.means])
            grads.append(torch.cat(found))
        return torch.stack(grads).numpy()

    wanted = gradients(test) @ gradients(train).T
    np.testing.assert_allclose(found.influence.values, wanted, rtol=1e-9, atol=1e-12)
    assert found.train_y.values.tolist() == [str(n % 3) if n % 3 == 0 else "" for n in range(10)]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loss_of_labels_counts_them_in_the_training_rows(at_once, monkeypatch):
    """alpha N / N_labelled log q(y | x), of M2: of a test row as of one of the training."""
    if not at_once:
        one_by_one(monkeypatch)
    pair = LinearPair(LinearConfig()).double()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=draw, dtype=torch.float64)
    train = Table("train", {"x": x, "y": torch.arange(8) % 4}, {"y": torch.arange(8) < 2})
    test = Table("test", {"x": x[:2], "y": torch.arange(2)}, classes={"y": tuple("0123")})
    term = inference.Classification("y", 0.1)
    found = metrics.influence(pair, train, test, [at(pair, 1.0, 8)], 1, term)
    batch = zoo.Batch(dict(test.sites), total=8, observed={"x": 8, "y": 2})
    losses = term.per_datum(pair.model, pair.guide, batch)
    parameters = list(pair.parameters())
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(
            loss, parameters, retain_graph=True, materialize_grads=True
        )])
        for loss in losses
    ]  # fmt: skip
    wanted = torch.stack([torch.stack([g @ h for h in grads]) for g in grads])
    np.testing.assert_allclose(found.influence.values[:, :2], wanted.numpy(), rtol=1e-9)
    assert not found.influence.values[:, 2:].any()  # rows without a label have no such loss


def test_batch_norm_has_the_statistics_of_the_checkpoint():
    pair, rows = batch_norm.normed(dtype=torch.float64), batch_norm.rows().to(torch.float64)
    pair.train()
    before = batch_norm.buffers(pair)
    state = {name: value.clone() for name, value in pair.state_dict().items()}
    state["decoder.1.running_mean"] += 0.5
    told = [
        metrics.influence(pair, rows, rows, [metrics.Checkpoint(s, 1.0, 1)], 2).influence
        for s in (pair.state_dict(), state)
    ]
    assert pair.training and all(
        torch.equal(before[name], value) for name, value in pair.named_buffers()
    )
    other = batch_norm.normed(dtype=torch.float64).eval()
    other.load_state_dict(state)
    as_loaded = metrics.influence(other, rows, rows, [at(other, 1.0, 1)], 2).influence
    np.testing.assert_array_equal(as_loaded, told[1])
    assert np.abs(told[1] - told[0]).max() > 1e-3


def test_weights_that_are_tied_or_single_numbers_count_once():
    class Tied(Factors):
        def __init__(self, config):
            super().__init__(config)
            self.scale = nn.Parameter(torch.tensor(0.7))
            self.alias = self.decoder  # a module of two names
            self.same = self.scale  # and a parameter
            self.guide.factors["z"].net.mean.bias.requires_grad_(False)
            self.guide.factors["z"].net.log_scale = self.twin = nn.Parameter(torch.zeros(L))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = Tied(NoConfig()).double()

    class Scaled(ClosedForm):
        def rows(self, run):
            pair = run.model.__self__
            return super().rows(run) * pair.scale * pair.same + pair.twin.sum() * run.batch[
                "x"
            ].sum(-1)

    train, loss = table(4), Scaled()
    weights = pair.state_dict()
    found = metrics.influence(pair, train, train, [at(pair, 1.0, 4)], 1, loss)
    batch = zoo.Batch(dict(train.sites))
    trained = [p for p in pair.parameters() if p.requires_grad]
    assert found.attrs["gradient_size"] == sum(p.numel() for p in trained)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(row, trained, retain_graph=True)])
        for row in loss.per_datum(pair.model, pair.guide, batch)
    ]
    wanted = torch.stack([torch.stack([g @ h for h in grads]) for g in grads])
    np.testing.assert_allclose(found.influence.values, wanted.numpy(), rtol=1e-9)
    assert all(torch.equal(weights[name], v) for name, v in pair.state_dict().items())
    by_alias = metrics.influence(
        pair, train, train, [at(pair, 1.0, 4)], 1, loss, parameters=("alias", "scale")
    )
    assert by_alias.attrs["gradient_size"] == D * L + D + 1


def test_an_objective_that_changes_is_that_of_the_checkpoint():
    pair, train = factors(), table(3)
    annealed = inference.ELBO(
        kl="analytic", beta=inference.Anneal(0.0, 1.0, steps=10), particles=1
    )
    annealed.at(Progress(0.5, 5))
    for steps, beta in ((0, 0.0), (5, 0.5), (20, 1.0)):
        given = [at(pair, progress=Progress(0.1, steps))]
        found = metrics.influence(pair, train, train, given, 2, annealed)
        plain = inference.ELBO(kl="analytic", beta=beta)
        wanted = metrics.influence(pair, train, train, given, 2, plain)
        np.testing.assert_allclose(found.influence, wanted.influence, rtol=1e-9)
    assert (annealed.progress, annealed.progress.steps) == (0.5, 5)


def test_a_sketch_keeps_products_on_average():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 90, generator=draw, dtype=torch.float64)
    exact, dims, seeds = float(a @ b), 40, 2000
    sizes, grads = {"u": 60, "v": 30}, torch.stack([a, b])
    told = []
    for seed in range(seeds):
        project = row_gradients.sketch(sizes, dims, torch.Generator().manual_seed(seed))
        s, t = project({"u": grads[:, :60].reshape(2, 6, 10), "v": grads[:, 60:]})
        told.append(float(s @ t))
    variance = float(a @ a * (b @ b) + exact**2 - 2 * (a**2 @ b**2)) / dims
    assert abs(np.mean(told) - exact) < 4 * math.sqrt(variance / seeds)
    assert np.var(told) == pytest.approx(variance, rel=0.15)  # its own error is about 4 %

    pair, train = factors(), table()
    whole, sketched = (
        metrics.influence(pair, train, train, [at(pair)], 1, ClosedForm(), sketch=size, seed=1)
        for size in (0, 4096)
    )
    scale = np.sqrt(np.outer(whole.self_influence, whole.self_influence))
    assert np.abs((sketched.influence - whole.influence) / scale).max() < 6 * math.sqrt(2 / 4096)
    assert sketched.attrs["sketch"] == 4096


@pytest.mark.parametrize("bandwidth", [0.05, 0.5, 3.0])
def test_a_kernel_density_is_that_of_leaving_each_row_out(bandwidth):
    draw = np.random.default_rng(0)
    x = np.concatenate([draw.normal(size=(30, 2)), [[6.0, -5.0]], [[0.1, 0.2]] * 2])
    test = np.concatenate([draw.normal(size=(8, 2)), x[-4:]])

    def log_density(rows):
        kernel = -((test[:, None] - rows) ** 2).sum(-1) / (2 * bandwidth**2)
        top = kernel.max(1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(kernel - top).sum(1))
        return total - np.log(len(rows)) - np.log(2 * np.pi * bandwidth**2)

    fitted = KernelDensity(bandwidth=bandwidth).fit(x)
    np.testing.assert_allclose(log_density(x), fitted.score_samples(test), rtol=1e-10)
    wanted = np.stack([log_density(x) - log_density(np.delete(x, i, 0)) for i in range(len(x))], 1)
    found = metrics.kde_influence(x, test, bandwidth)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)
    # It falls with the distance, and is largest on itself where rows are sparse.
    distance = ((test[:, None] - x) ** 2).sum(-1)
    by_distance = np.take_along_axis(found, distance.argsort(1), 1)
    assert (np.diff(by_distance, axis=1) <= 1e-9).all()
    own = np.diag(metrics.kde_influence(x, x, bandwidth))
    assert own.argmax() == 30


def test_influences_are_a_group_of_inference_data(tmp_path):
    pair, train = factors(), table(row_names=[f"cell {n}" for n in range(N)])
    found = metrics.influence(pair, train, train.rows([3, 5]), [at(pair)], 2)
    assert found.test_name.values.tolist() == ["cell 3", "cell 5"]
    idata = inference.Run(pair, "").posterior(train, draws=3, prior_draws=0)
    metrics.attach(idata, found, "influence").to_netcdf(tmp_path / "with.nc")
    read = groups_of(az.from_netcdf(tmp_path / "with.nc"))["influence"]
    xr.testing.assert_equal(read, found)
    assert read.attrs["loss"] == "EnumeratedELBO()"
    assert np.atleast_1d(read.attrs["rates"]).tolist() == [0.1]


def test_what_does_not_fit_is_named():
    pair, train = factors(), table()
    good = at(pair)

    def ask(*checkpoints, rows=train, **options):
        return metrics.influence(pair, train, rows, checkpoints, **{"draws": 1, **options})

    lacks = {name: value for name, value in good.state.items() if name != "decoder.bias"}
    wide = {**good.state, "decoder.bias": torch.zeros(D + 1)}
    for message, call in {
        "no checkpoints given": ask,
        "checkpoints hold a OrderedDict, expected Checkpoint": lambda: ask(good.state),
        "checkpoint 1 lacks 'decoder.bias'": lambda: ask(good, metrics.Checkpoint(lacks, 0.1, 1)),
        r"'decoder.bias' of checkpoint 0 has shape \(6,\), expected \(5,\)": lambda: ask(
            metrics.Checkpoint(wide, 0.1, 1)
        ),
        "draws is 0, expected at least 1": lambda: ask(good, draws=0),
        "chunk is 0, expected at least 1": lambda: ask(good, chunk=0),
        "sketch is -1, expected at least 0": lambda: ask(good, sketch=-1),
        "seed is -1": lambda: ask(good, seed=-1),
        "unknown name of parameters 'decode': did you mean 'decoder'": lambda: ask(
            good, parameters=("decode",)
        ),
        "no parameter of the pair has a gradient": lambda: metrics.influence(
            factors().requires_grad_(False), train, train, [good], 1
        ),
        "parameters is 'decoder', expected a tuple": lambda: ask(good, parameters="decoder"),
        "rows look at each other": lambda: ask(
            good, objective=inference.ELBO(kl="analytic", free_bits=0.1)
        ),
        "checkpoints are of stage 2, but factors has 1": lambda: ask(at(pair, stage=2)),
        r"rows of shape \(3,\)": lambda: ask(
            good, rows=Table("other", {"x": train.sites["x"][:, :3]})
        ),
        "rate of a checkpoint is nan": lambda: at(pair, rate=float("nan")),
        "rate of a checkpoint is -1": lambda: at(pair, rate=-1),
        "steps of a checkpoint is 0, expected at least 1": lambda: at(pair, steps=0),
        "every is 0, expected at least 1": lambda: metrics.Checkpoints(every=0),
        r"rows have shape \(3, 2\) and test rows \(3, 1\)": lambda: metrics.kde_influence(
            np.zeros((3, 2)), np.zeros((3, 1)), 1.0
        ),
        "there is 1 row, expected two or more": lambda: metrics.kde_influence([[0.0]], [[0.0]], 1),
        "rows are not all finite": lambda: metrics.kde_influence([[0.0], [np.nan]], [[0.0]], 1),
        "bandwidth is 0, expected a finite number above 0": lambda: metrics.kde_influence(
            [[0.0], [1.0]], [[0.0]], 0
        ),
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    two = LinearPair(LinearConfig()).double()
    x = torch.zeros(N, 3, dtype=torch.float64)
    unlabelled = Table("unlabelled", {"x": x})
    labelled = Table("labelled", {"x": x, "y": torch.arange(N) % 4})
    with pytest.raises(ValueError, match="labelled has labels 'y', of which unlabelled has none"):
        metrics.influence(two, unlabelled, labelled, [at(two)], 1)


def test_the_page_about_influence_runs():
    matplotlib.use("Agg")
    scope = run_page("metrics/influence")
    found, exact = scope["found"], scope["exact"]
    assert found.influence.shape == exact.shape == (20, 300)
    assert [c.steps for c in scope["checkpoints"]] == [20, 20, 20]
    assert exact.min() > -math.log(300 / 299) - 1e-12
    matplotlib.pyplot.close("all")
