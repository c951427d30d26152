"""Directions: densities against mpmath, draws and their gradients against the exact law."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.distributions import biject_to, kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_models.angle_draws import angle, angle_slope
from ppl_models.bessel_ratios import log_normaliser_and_ratio
from ppl_models.centres import mean_of
from ppl_models.sample_sites import support_words
from ppl_models.spherical import HypersphericalUniform, VonMisesFisher, log_area, sphere

DIMS = (2, 3, 10, 100, 2000)
KAPPAS = (1e-6, 1e-3, 0.1, 1.0, 10.0, 27.9, 28.1, 1e3, 1e5)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-7}  # relative


def exact(dim: int, kappa: float) -> tuple[mpmath.mpf, ...]:
    """L, A and A' with 40 digits."""
    with mpmath.workdps(40):
        order, kappa = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
        bessel = mpmath.besseli(order, kappa)
        log_normaliser = mpmath.log(bessel) + mpmath.loggamma(order + 1)
        log_normaliser -= order * mpmath.log(kappa / 2)
        ratio = mpmath.besseli(order + 1, kappa) / bessel
        return log_normaliser, ratio, 1 - ratio**2 - (dim - 1) * ratio / kappa


def first_axis(dim: int, kappa: torch.Tensor) -> VonMisesFisher:
    return VonMisesFisher(torch.eye(dim, dtype=kappa.dtype)[0], kappa)


def slope(value: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(value.sum(), by, create_graph=True)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_density_entropy_divergence_and_their_gradients(dim, dtype):
    kappa = torch.tensor(KAPPAS, dtype=dtype, requires_grad=True)
    d = first_axis(dim, kappa)
    kl = kl_divergence(d, HypersphericalUniform(dim, kappa))
    z = torch.zeros(dim, dtype=dtype)
    z[0], z[1] = 0.6, 0.8
    found = {
        "A": d.mean_resultant_length,
        "A'": slope(d.mean_resultant_length, kappa),
        "KL": kl,
        "KL'": slope(kl, kappa),
        "H'": slope(d.entropy(), kappa),
        "density": d.log_prob(z),
        "density'": slope(d.log_prob(z), kappa),
        "entropy": d.entropy(),
    }
    area = mpmath.mpf(log_area(dim))
    for place, k in enumerate(kappa.tolist()):
        log_normaliser, a, a_slope = exact(dim, k)
        divergence = k * a - log_normaliser
        cosine = mpmath.mpf(z[0].item())
        expected = {
            "A": a,
            "A'": a_slope,
            "KL": divergence,
            "KL'": k * a_slope,
            "H'": -k * a_slope,
            "density": k * cosine - log_normaliser - area,
            "density'": cosine - a,
            "entropy": area - divergence,
        }
        for name, value in expected.items():
            size = abs(value)
            if name in ("density", "entropy", "density'"):  # sums of numbers of these sizes
                size = 1 + (k * (name == "density") + abs(area)) * (name != "density'")
            gap = abs(mpmath.mpf(found[name][place].item()) - value)
            assert gap <= TOLERANCE[dtype] * size, (name, k, float(gap / size))
    assert bool((kl >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_the_ends_of_the_concentration(dim, dtype):
    """Uniform, very concentrated, and with a mean on, opposite and near the first axis."""
    torch.manual_seed(0)
    axis = torch.eye(dim, dtype=dtype)[0]
    near = torch.nn.functional.normalize(axis + 1e-6 * torch.eye(dim, dtype=dtype)[1], dim=0)
    raw = torch.stack([axis, -axis, near, -near]).requires_grad_()
    kappa = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e5], dtype=dtype).requires_grad_()
    d = VonMisesFisher(torch.nn.functional.normalize(raw, dim=-1).unsqueeze(1), kappa)
    z = d.rsample((50,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones_like(z[..., 0]))
    uniform = HypersphericalUniform(dim, kappa)
    opposite = d.log_prob(-d.loc)
    kl = kl_divergence(d, uniform)
    values = [z, d.log_prob(z), opposite, kl, d.entropy(), d.mean, uniform.log_prob(z)]
    total = sum(v.square().sum() for v in [*values[:5], kl_divergence(d, first_axis(dim, kappa))])
    torch.testing.assert_close(opposite, d.log_prob(d.loc) - 2 * kappa)
    torch.testing.assert_close(d.log_prob(z)[..., :2], uniform.log_prob(z)[..., :2])
    # The difference of two large entropies is as exact as they are.
    exact = 8 * torch.finfo(dtype).eps * float(uniform.entropy().abs().max())
    torch.testing.assert_close(kl, uniform.entropy() - d.entropy(), rtol=1e-5, atol=exact)
    assert all(bool(v.isfinite().all()) for v in values)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(total, [raw, kappa]))
    assert not kl[:, 0].any()
    torch.testing.assert_close(d.log_prob(z)[:, :, 0], uniform.log_prob(z)[:, :, 0])


def quadrature(f, low, high, panels=60):
    """Integrals of a function of angles from ``low`` to ``high`` ``(n,)``."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    t = ((np.arange(panels)[:, None] + (nodes + 1) / 2) / panels).ravel()
    width = np.asarray(high - low)[..., None]
    return (f(np.asarray(low)[..., None] + width * t) * width) @ np.tile(
        weights / 2 / panels, panels
    )


def distribution(dim: int, kappa: float, angles: np.ndarray) -> np.ndarray:
    """Share of the mass below each angle, by quadrature that knows nothing of the sampler's."""
    d = dim - 2
    cosine = 2 * kappa / (d + math.hypot(d, 2 * kappa)) if d else 1.0
    mode, reach = math.acos(cosine), 12 / math.sqrt(max(d + kappa * cosine, 1.0))
    low, high = max(0.0, mode - reach), min(math.pi, mode + reach)

    def g(t: np.ndarray) -> np.ndarray:
        power = d * np.log(np.sin(t) / math.sin(mode)) if d else 0.0
        return np.exp(kappa * (np.cos(t) - cosine) + power)

    total = quadrature(g, np.array(low), np.array(high), 300)
    return quadrature(g, np.minimum(low, angles), angles) / total


CASES = [(m, k) for m in (2, 3, 4, 10, 100, 1000) for k in (0.0, 1e-3, 1.0, 18.0, 1e3, 1e5)]


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_angles_invert_the_distribution(dim, kappa):
    share = torch.cat([10.0 ** torch.arange(-12, -2), torch.linspace(0.01, 0.99, 99)]).double()
    share = torch.cat([share, 1 - share[:10]])
    k = torch.full_like(share, kappa)
    found = angle(k, share, dim)
    np.testing.assert_allclose(distribution(dim, kappa, found.numpy()), share, atol=2e-9)
    assert bool((found.diff()[:-10] > 0).all())
    # The derivative at a fixed share, against differences.
    step = 1e-4 * max(kappa, 1.0)
    within = slice(6, 109)
    ends = [angle(k + sign * step, share, dim)[within] for sign in (0, 1, 2)]
    difference = (4 * ends[1] - 3 * ends[0] - ends[2]) / (2 * step)
    at = angle_slope(k, found, log_normaliser_and_ratio(k, dim)[1], dim)[within]
    torch.testing.assert_close(at, difference, rtol=2e-4, atol=1e-7 / max(kappa, 1.0))


LAWS = [(2, 0.5), (3, 20.0), (10, 5.0), (50, 1e3), (200, 1e5)]


@pytest.mark.parametrize(
    ("dim", "kappa", "dtype"),
    [
        *((*at, torch.float64) for at in LAWS),
        # Single precision is told apart where concentrations are the largest.
        *(pytest.param(*at, torch.float32, marks=pytest.mark.long) for at in LAWS[:-1]),
        (*LAWS[-1], torch.float32),
    ],
)
def test_draws_have_the_law(dim, kappa, dtype):
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 2.2 once in 8,000 (2 exp(-2 x^2))."""
    torch.manual_seed(dim)
    n = 10_000
    mean = torch.nn.functional.normalize(torch.randn(dim, dtype=dtype), dim=0)
    z = VonMisesFisher(mean, torch.tensor(kappa, dtype=dtype)).sample((n,)).double()
    mean = mean.double()
    away = (z - mean).norm(dim=-1).clamp_max(2)
    angles = 2 * (away / 2).asin().sort().values
    gap = distribution(dim, kappa, angles.numpy()) - (np.arange(n) + 0.5) / n
    assert math.sqrt(n) * (abs(gap).max() + 0.5 / n) < 2.2
    # Around the mean all directions are alike: another axis has symmetric entries.
    other = torch.zeros_like(mean)
    other[1] = 1
    other = torch.nn.functional.normalize(other - (other @ mean) * mean, dim=0)
    entries = z @ other
    ratio = float(exact(dim, kappa)[1])
    for power, expected in ((1, 0.0), (2, ratio / kappa)):
        values = entries**power
        assert abs(float(values.mean()) - expected) < 4.5 * float(values.std()) / math.sqrt(n)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (3, 5.0), (5, 1.0), (5, 20.0), (100, 50.0)])
def test_gradients_of_draws_are_unbiased(dim, kappa):
    """At m = 5, kappa = 1 proposals that were accepted, taken as noise, are 5 % and 17 % off."""
    torch.manual_seed(dim)
    n = 40_000
    k = torch.full((n,), kappa, dtype=torch.float64, requires_grad=True)
    raw = torch.randn(dim, dtype=torch.float64).expand(n, -1).clone().requires_grad_()
    mean = torch.nn.functional.normalize(raw, dim=-1)
    z = VonMisesFisher(mean, k).rsample()
    _, ratio, ratio_slope = (float(v) for v in exact(dim, kappa))
    cosine = (z * mean.detach()).sum(-1)
    square = -(dim - 1) * (ratio_slope / kappa - ratio / kappa**2)  # E w^2 = 1 - (m-1) A / kappa
    (to_mean,) = torch.autograd.grad(z[:, 1].sum(), raw, retain_graph=True)
    axis = torch.eye(dim, dtype=torch.float64)[1]
    mu = mean[0].detach()
    turned = ratio * (axis - mu[1] * mu) / float(raw[0].detach().norm())
    for found, expected in (  # each row a draw
        (slope(cosine, k), ratio_slope),
        (slope(cosine**2, k), square),
        (to_mean[:, 1], float(turned[1])),
        (to_mean[:, 0], float(turned[0])),
    ):
        values = found.detach()
        assert abs(float(values.mean()) - expected) < 4.5 * float(values.std()) / math.sqrt(n)


@pytest.mark.parametrize("dim", [2, 3, 10, 100])
def test_divergence_of_two(dim):
    """Against E_p[log p - log q], whose only moment is the mean A mu; 0 from itself."""
    torch.manual_seed(0)
    loc = torch.nn.functional.normalize(torch.randn(2, 6, dim, dtype=torch.float64), dim=-1)
    kappa = torch.tensor([[1e-3, 1.0, 5.0, 50.0, 1e3, 3e4], [2.0, 1e-3, 5.0, 300.0, 1e3, 4e4]])
    p, q = (VonMisesFisher(m, k.double()) for m, k in zip(loc, kappa, strict=True))
    found = kl_divergence(p, q)
    for place in range(6):
        (lp, a, _), (lq, *_) = (exact(dim, k[place].item()) for k in kappa.double())
        dot = float((p.loc[place] * q.loc[place]).sum())
        expected = lq - lp + a * (kappa[0, place].item() - kappa[1, place].item() * dot)
        assert float(found[place]) == pytest.approx(float(expected), rel=1e-10)
    assert float(kl_divergence(p, p).abs().max()) < 1e-10
    alike = VonMisesFisher(loc[0], torch.zeros(6, dtype=torch.float64))
    uniform = HypersphericalUniform(dim, loc)
    torch.testing.assert_close(kl_divergence(p, alike), kl_divergence(p, uniform))
    assert float(kl_divergence(uniform, uniform)) == 0


def test_gradients_in_general():
    torch.manual_seed(0)
    kappa = (torch.rand(6, dtype=torch.float64) * 60).requires_grad_()
    for dim in (3, 80):
        assert torch.autograd.gradcheck(lambda k, m=dim: log_normaliser_and_ratio(k, m), kappa)
        assert torch.autograd.gradgradcheck(
            lambda k, m=dim: log_normaliser_and_ratio(k, m)[0], kappa
        )
    _, ratio = log_normaliser_and_ratio(kappa, 3)
    with pytest.raises(NotImplementedError, match="third derivative"):
        slope(slope(ratio, kappa), kappa)


def test_draws_trace_compile_and_map():
    raw = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1)
    kappa = torch.rand(4, dtype=torch.float64) * 50

    def draw(loc, k):
        return VonMisesFisher(loc, k, validate_args=False).rsample()

    def value(k, loc):
        d = VonMisesFisher(loc, k, validate_args=False)
        z = d.rsample()
        return (d.log_prob(z) * z[..., 0]).sum()

    graph = make_fx(torch.func.grad(value), tracing_mode="fake")(kappa, raw)
    torch.manual_seed(3)
    expected = torch.func.grad(value)(kappa, raw)
    torch.manual_seed(3)
    torch.testing.assert_close(graph(kappa, raw), expected, rtol=1e-12, atol=0)
    many = torch.vmap(draw, randomness="different")(raw, kappa)
    torch.testing.assert_close(many.norm(dim=-1), torch.ones_like(kappa))
    assert len(many[:, 0].unique()) == 4
    spread = torch.func.grad(lambda k, loc: VonMisesFisher(loc, k, validate_args=False).entropy())
    one_by_one = torch.stack([spread(k, loc) for k, loc in zip(kappa, raw, strict=True)])
    torch.testing.assert_close(torch.vmap(spread)(kappa, raw), one_by_one)


def test_shapes_and_supports():
    d = VonMisesFisher(torch.eye(3)[:2], torch.ones(5, 1)).expand((4, 5, 2))
    assert (d.batch_shape, d.event_shape) == ((4, 5, 2), (3,))
    assert d.rsample((7,)).shape == (7, 4, 5, 2, 3) and d.log_prob(torch.eye(3)[0]).shape == (
        4,
        5,
        2,
    )
    uniform = HypersphericalUniform(3).expand((4,))
    assert uniform.sample((2,)).shape == (2, 4, 3) and uniform.entropy().shape == (4,)
    torch.testing.assert_close(mean_of(d), d.loc)
    assert mean_of(uniform) is None  # its centre is no direction
    assert sphere.check(torch.tensor([[0.6, 0.8], [0.6, 0.7]])).tolist() == [True, False]
    assert support_words(d.support) == "vectors of length 1"
    with pytest.raises(NotImplementedError):
        biject_to(d.support)


@pytest.mark.parametrize(
    ("loc", "kappa", "message"),
    [
        (torch.ones(3), torch.ones(()), "loc"),
        (torch.eye(3), torch.ones(3, 1) * -1, "concentration"),
        (torch.eye(3), torch.ones(4), "broadcasts to"),
        (torch.ones(2, 1), torch.ones(2), "1 entries, expected at least 2"),
        (torch.tensor(1.0), torch.tensor(1.0), "one number"),
    ],
)
def test_what_is_no_direction_is_refused(loc, kappa, message):
    with pytest.raises(ValueError, match=message):
        VonMisesFisher(loc, kappa, validate_args=True)
