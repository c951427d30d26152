"""Directions as codes: the paper's loss, a whole life, and what needs no real line."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import kl_divergence
from torch.testing import assert_close
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import Batch, data, guides, inference
from ppl_models.data import Stream, Table
from ppl_models.inference.posterior.support import check_data
from ppl_models.inference.training.process_noise import Draws
from ppl_models.spherical import HypersphericalUniform


def circle(rows: int = 120) -> data.Dataset:
    """Pixels that light up where an angle passes."""
    draw = torch.Generator().manual_seed(0)
    at = torch.rand(rows, 1, generator=draw) * 6.2832
    x = ((at - torch.arange(12) * 0.5236).cos() > 0.3).float()
    return data.from_arrays(x, splits=(rows // 2, rows // 4, rows // 4))


def small(**settings):
    settings = {"latent": 2, "hidden": (8,), "kl_warmup": 0.0, "shape": (1, 1, 12)} | settings
    return zoo.build("s_vae", circle(), **settings)


@pytest.mark.parametrize("latent", [2, pytest.param(5, marks=pytest.mark.long)])
def test_it_lives_wholly(latent, tmp_path):
    _, posterior = whole_life(
        lambda: small(latent=latent), circle(), tmp_path, epochs=3, batch_size=20
    )
    z = posterior["posterior"]["z"].values
    assert z.shape[-1] == latent and abs((z**2).sum(-1) - 1).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [20, 60])  # N / B of 3 and 1
def test_the_analytic_bound_is_the_papers(size, dtype):
    pair = small().to(dtype)
    (batch,) = (b.to(dtype) for b in Stream(circle().train, size).step(0))
    torch.manual_seed(0)
    found = pair.objective().per_datum(pair.model, pair.guide, batch)
    torch.manual_seed(0)
    q = pair.guide.factor("z", batch)
    z = q.rsample()
    logits = pair.decoder(z=z)
    log_p = torch.distributions.Bernoulli(logits=logits).log_prob(batch["x"]).sum(-1)
    kl = q.concentration * q.mean_resultant_length - 0.0
    kl = kl - torch.special.i0e(q.concentration).log() - q.concentration  # m = 2
    assert_close(found, kl - log_p, rtol=1e-5, atol=1e-5)
    bounds = []
    for kind in ("sampled", "analytic"):  # on the same draws
        torch.manual_seed(1)
        bound = inference.EnumeratedELBO(particles=400, kl=kind)
        bounds.append(bound.per_datum(pair.model, pair.guide, batch).detach())
    assert float((bounds[0] - bounds[1]).abs().max()) < 0.2  # log q has a deviation of 0.7


def test_the_weight_of_the_kl_grows():
    pair = small(kl_warmup=0.2)
    (batch,) = Stream(circle().train, 60).step(0)
    objective = pair.objective()
    kl = kl_divergence(pair.guide.factor("z", batch), HypersphericalUniform(2)).detach()

    def loss(progress):
        objective.at(progress)
        torch.manual_seed(0)
        return objective.per_datum(pair.model, pair.guide, batch).detach()

    for progress, weight in ((0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        assert_close(loss(progress), loss(0.0) + weight * kl)


def test_grey_pixels_are_drawn_at_each_look():
    """Each of 10,000 draws is 0 or 1, and 1 as often as the pixel is grey, to 4.5 errors."""
    torch.manual_seed(0)
    grey = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0]).repeat(10_000, 1)
    (stage,) = small().stages()
    drawn = stage.prepare(Batch({"x": grey, "y": grey[:, 0].long()}))
    assert sorted(drawn["x"].unique().tolist()) == [0, 1] and "y" in drawn
    error = (grey * (1 - grey))[0].sqrt() / 100
    assert ((drawn["x"].mean(0) - grey[0]).abs() <= 4.5 * error).all()
    for other in ({"binarise": False}, {"likelihood": "unit_normal"}):
        assert small(**other).stages()[0].prepare is None


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("latent", [2, 7])
def test_processes_draw_what_one_would(count, latent):
    pair, table = small(latent=latent).double(), circle().train
    table = Table("t", {"x": table.sites["x"][:].double()})

    def gradient(losses):
        pair.zero_grad()
        total = 0.0
        for loss in losses():
            loss.backward()
            total += float(loss.detach())
        return total, [p.grad.clone() for p in pair.parameters()]

    def alone():
        torch.manual_seed(1)
        batches = Stream(table, 20).step(0)
        yield pair.objective().differentiable_loss(pair.model, pair.guide, batches)

    def shared():
        for rank in range(count):
            stream = Stream(table, 20, process=rank, processes=count)
            draws = Draws(0, rank, count, torch.device("cpu"))
            draws.shares = stream.shares
            torch.manual_seed(1)
            yield draws.loss(
                pair.objective(), pair.model, pair.guide, stream.step(0), (0, 0)
            ).total

    (one, slopes), (other, summed) = gradient(alone), gradient(shared)
    assert other == pytest.approx(one, rel=1e-12)
    assert_close(summed, slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["nuts", "hmc", "map"])
def test_what_needs_a_real_line_refuses_in_one_line(method):
    with pytest.raises(ValueError, match=r"'z' .*support Sphere\(\)") as caught:
        getattr(inference, method)(small(), circle().test)
    assert "\n" not in str(caught.value)


def test_methods_tell_which_apply():
    found = {m.name: m for m in inference.methods(small(), circle())}
    assert not found["nuts"].applies and "Sphere()" in found["nuts"].reason
    assert found["importance"].applies and found["enumerated"].applies


def test_importance_needs_no_real_line():
    """The evidence by the guide is that by the prior, which for m = 2 is an integral."""
    torch.manual_seed(0)
    pair = small()
    rows = circle().test.rows(torch.arange(3))
    by_guide = inference.log_evidence(pair, rows, draws=20_000, method="iw")
    angles = (torch.arange(2000) + 0.5) / 2000 * 2 * torch.pi
    with torch.no_grad():
        logits = pair.decoder(z=torch.stack([angles.cos(), angles.sin()], -1))
        log_p = torch.distributions.Bernoulli(logits=logits.unsqueeze(1))
        log_p = log_p.log_prob(rows.sites["x"][:]).sum(-1)
    exact = log_p.logsumexp(0) - torch.tensor(2000.0).log()
    value = torch.as_tensor(by_guide["log_evidence"].values).float()
    assert_close(value, exact, atol=0.05, rtol=0)


def test_observed_directions_are_checked():
    pair = small()
    x = circle().train.sites["x"][:4]
    z = torch.nn.functional.normalize(torch.randn(4, 2), dim=-1)
    check_data(pair, Table("t", {"x": x, "z": z}))
    z[2] = 0.5
    with pytest.raises(
        ValueError, match=r"'z', row 2 of t: the vector .* expected vectors of length 1"
    ):
        check_data(pair, Table("t", {"x": x, "z": z}))


@pytest.mark.parametrize("kind", ["softplus", "exp"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_factor(dtype, kind):
    factor = guides.VonMisesFisher(3, {"x": 4}, (5,), floor=0.5, concentration=kind).to(dtype)
    x = torch.randn(6, 4, dtype=dtype)
    q, raw = factor(x=x), factor.net(x=x)
    assert_close(q.loc, raw[:, :3] / raw[:, :3].norm(dim=-1, keepdim=True))
    positive = (1 + raw[:, 3].exp()).log() if kind == "softplus" else raw[:, 3].exp()
    assert_close(q.concentration, 0.5 + positive)
    high = factor.distribution(torch.full((1, 4), 200.0, dtype=dtype))
    assert_close(
        high.concentration, torch.full((1,), 200.5 if kind == "softplus" else 1e5 + 0.5).to(dtype)
    )
    q = factor.distribution(torch.zeros(2, 4, dtype=dtype, requires_grad=True))
    assert bool(q.support.check(q.rsample()).all())
    uniform = HypersphericalUniform(3, x)
    k = 0.5 + (
        math.log(2) if kind == "softplus" else 1.0
    )  # its concentration; on the ordinary sphere A = coth k - 1 / k
    kl = kl_divergence(q, uniform).detach()
    assert_close(kl, torch.full_like(kl, k / math.tanh(k) - 1 + math.log(k / math.sinh(k))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size is 1"),
        ({"size": 3, "floor": -1.0}, "floor is -1.0"),
        ({"size": 3, "concentration": "ex"}, "unknown concentration 'ex': did you mean 'exp'"),
    ],
)
def test_options_of_the_factor(options, message):
    with pytest.raises(ValueError, match=message):
        guides.VonMisesFisher(given={"x": 4}, **options)
