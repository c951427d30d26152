"""Labels of pairs with several: their marginals by the guide, by its draws and by the model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.chained import D, L, NoConfig, chained
from worlds.shared_sites import shared

from ppl_models import Card, Pair, data, guides, inference
from ppl_models.networks import Label, Scalar

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
N = 12


class Three(Pair):
    """Labels a -> b -> c of 3, 2 and 2 values, d that the guide leaves to the model, a code z."""

    Config = NoConfig
    card = Card(
        "three", "-", "-", 2026, "-", "test", {"x": "data"},
        {n: n for n in "abcdz"}, ("a", "b", "c", "d"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(NoConfig())
        self.a, self.to_b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.to_c, self.to_d = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(3, 2))
        self.means = nn.Parameter(torch.randn(4, 3))
        self.guide = guides.Factored(
            a=guides.Categorical(3, {"x": 4}, (4,)),
            b=guides.Bernoulli({"x": 4, "a": Label(3)}),
            c=guides.Categorical(2, {"x": 4, "b": Scalar()}, (4,)),
            z=guides.Normal(Scalar(), {"x": 4, "c": Label(2)}, (4,)),
        )

    def model(self, batch):
        x = batch.get("x")
        with self.plate(batch):
            a = pyro.sample("a", dist.Categorical(logits=self.a), obs=batch.get("a"))
            b = pyro.sample("b", dist.Bernoulli(logits=self.to_b[a]), obs=batch.get("b"))
            c = pyro.sample("c", dist.Categorical(logits=self.to_c[b.long()]), obs=batch.get("c"))
            d = dist.Categorical(logits=self.to_d[a])
            d = pyro.sample("d", d, obs=batch.get("d"), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.a.new_zeros(()), 1.0))
            locs = [self.means[0][a], self.means[1][b.long()], self.means[2][c] + z]
            loc = torch.stack(torch.broadcast_tensors(*locs, self.means[3][d]), -1)
            pyro.sample("x", dist.Normal(loc, 0.8).to_event(1), obs=x)

    def joint(self, x):
        """p(a, b, c, d | x) ``(N, 3, 2, 2, 2)``, by a loop over values; z is integrated out."""
        found = torch.zeros(len(x), 3, 2, 2, 2, dtype=x.dtype)
        for a, b, c, d in itertools.product(range(3), range(2), range(2), range(2)):
            log_p = self.a.log_softmax(0)[a] + dist.Bernoulli(logits=self.to_b[a]).log_prob(
                x.new_tensor(float(b))
            )
            log_p = log_p + self.to_c[b].log_softmax(0)[c] + self.to_d[a].log_softmax(0)[d]
            loc = torch.stack([self.means[0][a], self.means[1][b], self.means[2][c],
                               self.means[3][d]])  # fmt: skip
            scale = x.new_tensor([0.64, 0.64, 1.64, 0.64]).sqrt()
            found[:, a, b, c, d] = log_p + dist.Normal(loc, scale).log_prob(x).sum(-1)
        return found.flatten(1).softmax(-1).reshape(found.shape)

    def guides_joint(self, x):
        """q(a, b, c | x) ``(N, 3, 2, 2)``, by a loop over all values."""
        found = torch.zeros(len(x), 3, 2, 2, dtype=x.dtype)
        for a, b, c in itertools.product(range(3), range(2), range(2)):
            at = {"a": torch.full((len(x),), a), "b": x.new_full((len(x),), b)}
            at |= {"c": torch.full((len(x),), c), "x": x}
            logs = [self.guide.factor(n, at).log_prob(at[n]) for n in "abc"]
            found[:, a, b, c] = sum(logs).exp()
        return found


def three(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Three().to(dtype)


def table(dtype, width=4, **labels):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N, width, generator=g, dtype=torch.float64).to(dtype)
    return data.Table("t", {"x": x, **labels})


def marginal(joint, place):
    others = [axis for axis in range(1, joint.dim()) if axis != place + 1]
    return joint.sum(others)


@DTYPES
@torch.no_grad()
def test_the_guides_marginal_sums_out_the_labels_above(dtype):
    pair, rows = three(dtype), table(dtype)
    joint = pair.guides_joint(rows.sites["x"][:])
    for place, label in enumerate("abc"):
        got = inference.label_probabilities(pair, rows, label)
        assert got.dtype == dtype
        assert_close(got, marginal(joint, place))


@DTYPES
@torch.no_grad()
def test_codes_between_labels_take_their_mean_for_each_value(dtype):
    """y -> a -> t in the guide: t by the mean of a given each y."""
    pair = chained(dtype)
    torch.manual_seed(2)
    t = guides.Categorical(2, {"x": D, "a": L}).to(dtype)
    kept = pair.guide.factors
    pair.guide = guides.Factored(y=kept["y"], a=kept["a"], t=t)
    rows = table(dtype, D)
    x = rows.sites["x"][:]
    q_y, total = pair.guide.factor("y", {"x": x}).probs, 0
    for y in range(3):
        a = pair.guide.factor("a", {"x": x, "y": torch.full((N,), y)}).mean
        total = total + q_y[:, [y]] * pair.guide.factor("t", {"x": x, "a": a}).probs
    assert_close(inference.label_probabilities(pair, rows, "t"), total)


@DTYPES
@torch.no_grad()
def test_the_models_marginal_sums_out_all_other_labels(dtype):
    """At the exact posterior of z no draw matters: K = 2 gives the enumerated joint."""
    pair, rows = three(dtype), table(dtype)
    x = rows.sites["x"][:]
    pair.guide.factors["z"] = Exact(pair)
    joint = pair.joint(x)
    for place, label in enumerate("abc"):
        got = inference.label_probabilities(pair, rows, label, particles=2)
        assert_close(got, marginal(joint, place), rtol=1e-4, atol=1e-5)
    # Of d, which the guide leaves out: labels a, b, c are drawn, and weighed.
    draws = [
        inference.label_probabilities(pair, rows, "d", particles=2000, seed=seed)
        for seed in range(10)
    ]
    error = torch.stack(draws).std(0) / 10**0.5
    assert bool(((torch.stack(draws).mean(0) - marginal(joint, 3)).abs() < 5 * error + 1e-3).all())


class Exact(guides.Conditional):
    """p(z | x, c)."""

    def __init__(self, pair):
        super().__init__(("x", "c"))
        self.pair = [pair]

    def forward(self, x, c):
        rest = x[..., 2] - self.pair[0].means[2][c]
        return dist.Normal(rest / 1.64, (0.64 / 1.64) ** 0.5)


@DTYPES
def test_two_labels_by_the_model(dtype):
    pair, rows = chained(dtype), table(dtype, D)
    x = rows.sites["x"][:].double()
    with torch.no_grad():
        joint = torch.zeros(N, 3, 2, dtype=torch.float64)
        m, W, V, d = (p.double() for p in (pair.m, pair.W, pair.V, pair.d))
        eye = torch.eye(D, dtype=torch.float64)
        cov = V.T @ (W.T @ W * 0.25 + torch.eye(L, dtype=torch.float64) * 0.09) @ V + 0.04 * eye
        for y, t in itertools.product(range(3), range(2)):
            q = torch.distributions.MultivariateNormal(m[y] @ W @ V + d[t], cov)
            joint[:, y, t] = q.log_prob(x)
        joint = joint.flatten(1).softmax(-1).reshape(N, 3, 2)
        for site, wanted in (("y", joint.sum(2)), ("t", joint.sum(1))):
            parts = torch.stack([
                inference.label_probabilities(wide(pair), rows, site, particles=4000, seed=s)
                for s in range(8)
            ]).double()  # fmt: skip
            error = parts.std(0) / 8**0.5
            assert bool(((parts.mean(0) - wanted).abs() < 5 * error + 0.01).all()), site


def wide(pair):
    """Codes near their exact posterior would need fits; wide ones are weighed right in the end."""
    with torch.no_grad():
        for name in ("a", "b"):
            for parameter in pair.guide.factors[name].parameters():
                parameter.zero_()
    return pair


@DTYPES
@pytest.mark.parametrize("cells", [1e6, 500], ids=["at once", "in parts"])
@pytest.mark.parametrize("draws", [1, 17])
@pytest.mark.parametrize("kind", ["three", "chained"])
def test_over_draws_it_is_what_the_export_writes(monkeypatch, dtype, draws, kind, cells):
    monkeypatch.setattr("ppl_models.inference.posterior.rows.STEP_CELLS", int(cells))
    monkeypatch.setattr("ppl_models.inference.posterior.row_blocks.LEAST_BLOCK", 4)
    monkeypatch.setattr("ppl_models.inference.posterior.row_blocks.LIKELIHOOD_CELLS", 1500)
    pair = three(dtype) if kind == "three" else chained(dtype)
    rows = table(dtype, 4 if kind == "three" else D)
    idata = inference.Run(pair, "").posterior(rows, draws=draws, prior_draws=0, seed=3)
    variational = idata["variational"]
    for label in "abc" if kind == "three" else "yt":
        got = inference.label_probabilities(pair, rows, label, draws=draws, seed=3)
        assert np.array_equal(variational[f"{label}_probs"].values, got.numpy()), label
        known = replace_labels(rows, label)
        told = variational[f"{label}_probs"].values.argmax(-1)
        wrong = float((told != known.sites[label][:].numpy()).mean())
        assert inference.error(pair, known, label, draws=draws, seed=3) == wrong


def replace_labels(rows, label):
    """The rows with a label."""
    return data.Table("t", {"x": rows.sites["x"][:], label: torch.arange(N) % 2})


@DTYPES
@torch.no_grad()
def test_the_mean_over_draws_is_the_marginal(dtype):
    pair, rows = three(dtype), table(dtype)
    joint = pair.guides_joint(rows.sites["x"][:])
    S = 4000
    for place, label in enumerate("abc"):
        got = inference.label_probabilities(pair, rows, label, draws=S)
        assert bool(((got - marginal(joint, place)).abs() < 5 * 0.5 / S**0.5).all())
    pair.guide.factors["z"] = Exact(pair)
    # d, of the model: its mean under q(a, b, c) p(z | x, c), where d hangs on a alone.
    by_a = pair.to_d.log_softmax(-1)[None] + dist.Normal(pair.means[3, :2], 0.8).log_prob(
        rows.sites["x"][:][:, 3, None, None]
    )
    wanted = (marginal(joint, 0)[..., None] * by_a.softmax(-1)).sum(1)
    got = inference.label_probabilities(pair, rows, "d", draws=S)
    assert bool(((got - wanted).abs() < 5 * 0.5 / S**0.5).all())


def test_sites_that_all_rows_share_are_drawn_as_in_the_export():
    pair, rows = shared(5)
    idata = inference.Run(pair, "").posterior(rows, draws=4, prior_draws=0)
    got = inference.label_probabilities(pair, rows, draws=4)
    assert np.array_equal(idata["variational"].y_probs.values, got.numpy())


@DTYPES
@pytest.mark.parametrize("how", [{}, {"particles": 5}, {"draws": 5}], ids=str)
def test_errors_are_of_each_label_where_it_is_known(dtype, how):
    pair = three(dtype)
    a, b, c = torch.arange(N) % 3, torch.arange(N) % 2, torch.arange(N) % 2
    full = table(dtype, a=a, b=b, c=c)
    known = {"a": torch.arange(N) < 7, "b": torch.arange(N) >= 4}
    part = full.hide(known).hide({"c": torch.zeros(N, dtype=torch.bool)})
    assert inference.errors(pair, table(dtype), **how) == {}
    found = inference.Run(pair, "").errors(part, **how)
    assert list(found) == ["a", "b"]
    assert set(inference.errors(pair, full, **how)) == {"a", "b", "c"}
    for site, labels in (("a", a), ("b", b)):
        rows = full.rows(known[site].nonzero().flatten())
        probs = inference.label_probabilities(pair, rows, site, **how)
        wrong = float((probs.argmax(-1) != labels[known[site]]).double().mean())
        assert found[site] == wrong == inference.error(pair, part, site, **how)
    with pytest.raises(ValueError, match=r"^t has no row with a label 'c' to compare with$"):
        inference.error(pair, part, "c", **how)
    with pytest.raises(ValueError, match=r"^unknown label of three 'q': expected one of a, b, c"):
        inference.error(pair, part, "q", **how)


class Ended(Pair):
    """q(z | x) a flow, q(y | z): the label hangs on what has no mean."""

    Config = NoConfig
    card = replace(Three.card, latents={"y": "class", "z": "code"}, labels=("y",))

    def __init__(self) -> None:
        super().__init__(NoConfig())
        self.guide = guides.Factored(z=guides.Flow(2, {"x": 4}), y=guides.Categorical(2, {"z": 2}))

    def model(self, batch):
        zero = self.like().new_zeros
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero(2)), obs=batch.get("y"))
            z = dist.Normal(y.to(zero(1).dtype)[..., None] + zero(2), 1.0).to_event(1)
            z = pyro.sample("z", z)
            pyro.sample("x", dist.Normal(z.repeat_interleave(2, -1), 1.0).to_event(1),
                        obs=batch.get("x"))  # fmt: skip


@pytest.mark.parametrize(
    ("site", "how", "words"),
    [
        ("y", {}, r"^the label 'y' needs the site 'z', which has no mean; draw it \(draws=200"),
        ("y", {"particles": 2, "draws": 2}, r"^particles is 2 and draws is 2, expected one of"),
        ("y", {"draws": -1}, r"^draws is -1, expected at least 0"),
        ("z", {"draws": 2}, r"^unknown missing label 'z': expected one of y$"),
        ("q", {"particles": 2}, r"^unknown missing label 'q': expected one of y$"),
    ],
)
def test_what_is_refused(site, how, words):
    torch.manual_seed(0)
    pair = Ended()
    with pytest.raises(ValueError, match=words) as caught:
        inference.label_probabilities(pair, table(torch.float32), site, **how)
    assert "\n" not in str(caught.value)
    probs = inference.label_probabilities(pair, table(torch.float32), "y", draws=3)
    assert_close(probs.sum(-1), torch.ones(N))
