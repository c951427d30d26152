"""Interventions at the posterior's means, and by many draws, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.chained import NOISE_A, NOISE_B, Chained, D, L, NoConfig, chained, rows
from worlds.shared_sites import shared

import ppl_models as zoo
from ppl_models import Batch, Pair, guides
from ppl_models.interventions import traverse

S = 4000
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
SCALES = pytest.mark.parametrize("scale", [1, 10])
KNOWN = pytest.mark.parametrize("known", [(), ("y",), ("t",), ("y", "t")])


def exactly(found, wanted, dtype):
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    for name, value in wanted.items():
        assert_close(found[name], value, rtol=tol, atol=tol, msg=lambda m, n=name: f"{n}: {m}")


def within(draws, mean):
    """The mean of S draws is within its standard error."""
    error = draws.double().std(0) / len(draws) ** 0.5
    assert ((draws.double().mean(0) - mean.double()).abs() <= 5 * error + 1e-6).all()


@DTYPES
@SCALES
@KNOWN
def test_at_the_mean_all_that_is_moved_and_below_is_known(dtype, known, scale):
    pair, batch = chained(dtype), rows(dtype, known, scale=scale)
    kept = pair.means(batch)
    with torch.no_grad():
        b = torch.tensor([0.4, -1.0], dtype=dtype)
        x = b @ pair.V + pair.d[kept["t"]]
        found = pair.intervene(batch, codes="mean", b=b)
        exactly(found, {"y": kept["y"], "t": kept["t"], "a": kept["a"], "x": x}, dtype)

        a = kept["a"].flip(0)
        found = pair.intervene(batch, codes="mean", a=a)
        b = a @ pair.W
        wanted = {"y": kept["y"], "t": kept["t"], "b": b, "x": b @ pair.V + pair.d[kept["t"]]}
        exactly(found, wanted, dtype)

        found = pair.intervene(batch, codes="mean", y=2)
        a = pair.m[torch.full((batch.count,), 2)]
        b = a @ pair.W
        exactly(
            found, {"t": kept["t"], "a": a, "b": b, "x": b @ pair.V + pair.d[kept["t"]]}, dtype
        )


@DTYPES
@KNOWN
def test_nothing_is_drawn_at_the_mean(dtype, known):
    pair, batch = chained(dtype), rows(dtype, known)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found += [pair.intervene(batch, codes="mean", y=1), pair.intervene(
            batch, codes="mean", draws=2, y=1)]  # fmt: skip
    for name, value in found[0].items():
        assert torch.equal(found[2][name], value)
        for wide in (found[1][name], found[3][name]):
            assert wide.shape == (2, *value.shape)
            assert_close(wide, value.expand(wide.shape))


@DTYPES
@pytest.mark.parametrize(
    ("name", "site", "settings"),
    [
        ("vae", "z", {}),
        ("m2", "z", {"classes": 3}),
        ("ccvae", "z_s", {"labels": ("a", "b"), "classes": (2, 3), "style": 2}),
        ("bayesian_ssl", "z", {"classes": 3}),
    ],
)
def test_a_null_intervention_is_the_reconstruction_at_the_mean(dtype, name, site, settings):
    torch.manual_seed(0)
    pair: Pair = zoo.build(name, data_dim=6, hidden=(5,), **settings).to(dtype)
    batch = Batch({"x": torch.rand(4, 6, dtype=dtype)})
    own = pair.intervene(batch, codes="mean")  # all as it is, the rows as they are
    assert torch.equal(own["x"], batch["x"])
    codes = {n: v for n, v in own.items() if n.startswith("z")}
    with torch.no_grad():
        if name == "m2":
            codes["y"] = pair.guide.factor("y", batch).probs.argmax(-1)
            assert torch.equal(own["y"], codes["y"])
        values = {**own, "x": batch["x"]}
        for code in (n for n in codes if n != "y"):
            assert torch.equal(own[code], pair.guide.factor(code, values).mean)
        mean = pair.likelihood(pair.decoder(**codes)).mean
    found = pair.intervene(batch, codes="mean", **{site: own[site]})
    assert torch.equal(found["x"], mean)
    for code, value in codes.items():
        assert torch.equal(found[code], value)


@DTYPES
@SCALES
@KNOWN
def test_draws_are_of_guide_and_model_at_once(dtype, known, scale):
    pair, batch = chained(dtype), rows(dtype, known, scale=scale)
    torch.manual_seed(3)
    found = pair.intervene(batch, draws=S, y=2)
    count = batch.count
    assert {n: v.shape for n, v in found.items()} == {
        "y": (S, count), "t": (S, count), "a": (S, count, L), "b": (S, count, L),
        "x": (S, count, D),
    }  # fmt: skip
    with torch.no_grad():
        y = batch.get("y")
        if y is None:
            q_y = pair.guide.factor("y", batch).probs
            each = [{**batch, "y": torch.full((count,), c)} for c in range(3)]
            by_y = torch.stack([pair.guide.factor("t", v).probs for v in each], 1)
            q_t = (q_y.unsqueeze(-1) * by_y).sum(1)
        else:
            q_t = pair.guide.factor("t", batch).probs
        if "t" in known:
            q_t = nn.functional.one_hot(batch["t"], 2).to(dtype)
            assert torch.equal(found["t"], batch["t"].expand(S, count))
        b = pair.m[2] @ pair.W
        within(nn.functional.one_hot(found["t"], 2), q_t)
        within(found["a"], pair.m[2].expand(count, L))
        within(found["b"], b.expand(count, L))
        within(found["x"], b @ pair.V + q_t @ pair.d)
        cov = pair.W.T @ pair.W * NOISE_A**2 + torch.eye(L) * NOISE_B**2
        within((found["b"] - b).square(), cov.diagonal().expand(count, L))
        # Rows and draws are independent of each other.
        one = (found["a"] - pair.m[2])[..., 0]
        within(one[:, 0] * one[:, 1], torch.zeros(()))
        within(one[1:, 0] * one[:-1, 0], torch.zeros(()))


@DTYPES
@KNOWN
def test_what_is_kept_is_drawn_from_the_guide(dtype, known):
    pair, batch = chained(dtype), rows(dtype, (*known, "y") if "y" not in known else known)
    torch.manual_seed(4)
    values = torch.randn(S, 1, L, dtype=dtype)
    found = pair.intervene(batch, draws=S, b=values)
    assert torch.equal(found["b"], values.expand(S, batch.count, L))
    with torch.no_grad():
        q = pair.guide.factor("a", batch)
        within(found["a"], q.mean)
        within((found["a"] - q.mean).square(), q.variance)
        assert_close(found["x"], values @ pair.V + pair.d[found["t"]])


@DTYPES
@pytest.mark.parametrize("site", ["a", "b"])
def test_transfer_at_the_means_and_by_draws(dtype, site):
    pair, target = chained(dtype), rows(dtype, ("t",))
    source = Batch({"x": target["x"].flip(0), "y": torch.arange(5) % 3})
    theirs = pair.means(source)[site]
    found = pair.transfer(source, target, [site], codes="mean")
    with torch.no_grad():
        b = theirs if site == "b" else theirs @ pair.W
        exactly(found, {site: theirs, "x": b @ pair.V + pair.d[target["t"]]}, dtype)
        torch.manual_seed(5)
        drawn = pair.transfer(source, target, ["a"], draws=S)
        q = pair.guide.factor("a", source)
        within(drawn["a"], q.mean)
        within(drawn["x"], q.mean @ pair.W @ pair.V + pair.d[target["t"]])
        spread = torch.diagonal(
            pair.V.T @ (pair.W.T @ torch.diag_embed(q.variance) @ pair.W
                        + NOISE_B**2 * torch.eye(L, dtype=dtype)) @ pair.V, dim1=-2, dim2=-1,
        )  # fmt: skip
        rest = drawn["x"] - (q.mean @ pair.W @ pair.V + pair.d[target["t"]])
        within(rest.square(), spread)


def test_sites_that_all_rows_share_have_a_value_per_draw():
    pair, table = shared(4)
    (batch,) = table.batches()
    found = pair.intervene(batch, codes="mean", z=0.5)
    q = pair.guide.globals_.auto
    with torch.no_grad():
        y = pair.guide.factor("y", batch).probs.argmax(-1)
        assert_close(found["w"], q.locs.w.detach())
        assert_close(found["x"], q.locs.w + pair.means[y] + 0.5 * pair.a)
    torch.manual_seed(6)
    drawn = pair.intervene(batch, draws=300, z=torch.zeros(300, 1, 1), y=0)
    assert drawn["w"].shape == (300, 2) and drawn["x"].shape == (300, 4, 2)
    within(drawn["w"], q.locs.w.detach())
    within((drawn["w"] - q.locs.w.detach()).square(), q.scales.w.detach().square())
    assert_close(drawn["x"], (drawn["w"] + pair.means[0].detach())[:, None].expand(300, 4, 2))


class Plated(Chained):
    """Three bits within each row, each with an entry of x; a plain guide."""

    card = replace(Chained.card, latents={"y": "class", "bit": "bits"}, labels=("y",))

    def __init__(self) -> None:
        Pair.__init__(self, NoConfig())
        self.shift = nn.Parameter(torch.tensor(4.0))

    def model(self, batch):
        x = batch.get("x")
        with self.plate(batch):
            y = pyro.sample("y", dist.Bernoulli(self.shift.new_tensor(0.5)), obs=batch.get("y"))
            with pyro.plate("bits", D, dim=-2):
                bit = pyro.sample("bit", dist.Bernoulli(logits=self.shift * (2 * y - 1)))
                own = None if x is None else x.T
                pyro.sample("each", dist.Normal(bit, 0.1), obs=own)

    def guide(self, batch):
        with batch.plate():
            if "y" not in batch:
                pyro.sample("y", dist.Bernoulli(logits=batch["x"].sum(-1)))
            with pyro.plate("bits", D, dim=-2):
                pyro.sample("bit", dist.Bernoulli(logits=batch["x"].T))


def test_a_plate_within_the_rows_keeps_its_place():
    pair = Plated()
    batch = Batch({"x": torch.randn(4, D, generator=torch.Generator().manual_seed(2))})
    torch.manual_seed(0)
    found = pair.intervene(batch, draws=S, y=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert found["y"].shape == (S, 4) and found["bit"].shape == (S, D, 4)
    within(found["bit"], torch.tensor([-4.0, 4.0] * 2).sigmoid().expand(D, 4))
    found = pair.intervene(batch, codes="mean", y=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert torch.equal(found["bit"], torch.tensor([0.0, 1.0] * 2).expand(D, 4))


def test_a_traversal_at_the_mean_has_no_noise():
    pair, batch = chained(torch.float64), rows(torch.float64)
    values = torch.linspace(-1, 1, 3).double().unsqueeze(-1).expand(3, L)
    pictures = traverse(pair, batch, "b", values, codes="mean")
    with torch.no_grad():
        wanted = (values @ pair.V)[:, None] + pair.d[pair.means(batch)["t"]]
    assert_close(pictures, wanted)


FACTORS = {
    "positive": guides.Constrained(2, {"x": D}, "positive"),
    "simplex": guides.Constrained(2, {"x": D}, "simplex"),
    "unit_interval": guides.Constrained(2, {"x": D}, "unit_interval"),
    "flow": guides.Flow(2, {"x": D}),
}


def of_code(support):
    """A pair whose one code has another support."""

    class Own(Chained):
        card = replace(Chained.card, latents={"c": "code"}, labels=())

        def __init__(self):
            Pair.__init__(self, NoConfig())
            self.scale = nn.Parameter(torch.ones(()))
            self.guide = guides.Factored(c=FACTORS[support])

        def model(self, batch):
            one = self.scale.expand(2)
            priors = {
                "positive": dist.LogNormal(one, 1.0).to_event(1),
                "simplex": dist.Dirichlet(one),
                "unit_interval": dist.Beta(one, one).to_event(1),
                "flow": dist.Normal(one, 1.0).to_event(1),
            }
            with self.plate(batch):
                c = pyro.sample("c", priors[support])
                pyro.sample("x", dist.Normal(c.sum(-1, keepdim=True), 0.1).expand(
                    (*c.shape[:-1], D)).to_event(1), obs=batch.get("x"))  # fmt: skip

    return Own()


@pytest.mark.parametrize("support", ["simplex", "unit_interval", "flow"])
def test_a_site_without_a_mean_is_named(support):
    pair, batch = of_code(support), rows(torch.float32)
    line = r"^site 'c' \(\w+\) has no mean; ask for draws with codes='draw'$"
    with pytest.raises(ValueError, match=line):
        pair.intervene(batch, codes="mean")
    with pytest.raises(ValueError, match=line):
        pair.transfer(batch, batch, ["c"], codes="mean")
    assert pair.intervene(batch)["c"].shape == (5, 2)


def test_the_mean_of_a_log_normal_is_known():
    pair, batch = of_code("positive"), rows(torch.float32)
    loc, log_variance = FACTORS["positive"].raw(x=batch["x"]).detach().chunk(2, -1)
    found = pair.intervene(batch, codes="mean")["c"]
    assert_close(found, (loc + log_variance.exp() / 2).exp())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codes": "mode"}, "codes is 'mode', expected 'mean' or 'draw'"),
        ({"codes": torch.zeros(2)}, "codes is tensor"),
        ({"draws": 0}, "draws is 0, expected at least 1"),
        ({"draws": 2.5}, "draws is 2.5, expected a whole number"),
        ({"draws": 3, "b": torch.zeros(4, 5, 2)},
         "site 'b' has shape (4, 5, 2), expected one that broadcasts to (3, 5, 2)"),
        ({"draws": 3, "y": 7}, "site 'y' is set to 7, expected one of its 3 classes"),
        ({"draws": 3, "q": 7}, "unknown site 'q'"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options, words):
    pair, batch = chained(torch.float32), rows(torch.float32)
    with pytest.raises(ValueError) as caught:
        pair.intervene(batch, **options)
    assert words in str(caught.value)
