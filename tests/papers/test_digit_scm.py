"""The digits' causes: densities by hand, noise and back, and what is refused."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from ppl_models.data.render.morpho import causes
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.parts.digit_scm import digit_scm

SHIFTED = {"log_thickness": (0.5, 0.3), "grey_levels": (10.0, 90.0)}


def rows(dtype, low=64.0, high=255.0):
    thickness, intensity = causes(7, numpy_generator(0, 0))
    share = (intensity - 64) / 191
    return {
        "thickness": torch.tensor(thickness, dtype=dtype),
        "intensity": torch.tensor(low + (high - low) * share, dtype=dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, SHIFTED])
def test_density_is_the_one_by_hand(dtype, options):
    """With the arrow and a spline that is the identity: lognormal, and a logit that is Normal."""
    scm = digit_scm(**options).to(dtype)
    mean, deviation = options.get("log_thickness", (0.885, 0.253))
    low, high = options.get("grey_levels", (63.0, 256.0))
    raw = scm.mechanisms["intensity"].layers[0].raw.net.first
    with torch.no_grad():
        raw.weights["thickness"].copy_(torch.tensor([[1.2], [0.1]]))
        raw.bias.copy_(torch.tensor([-0.3, -0.7]))
    values = rows(dtype, low + 1, high - 1)
    t, i = (values[name].double().numpy() for name in ("thickness", "intensity"))
    inner = (torch.tensor(t).log().numpy() - mean) / deviation
    share = torch.tensor((i - low) / (high - low))
    logit = stats.norm(-0.3 + 1.2 * inner, torch.tensor(-0.7 + 0.1 * inner).exp().numpy())
    expected = torch.tensor(
        stats.lognorm(deviation, scale=torch.tensor(mean).exp().item()).logpdf(t)
        + logit.logpdf(torch.logit(share).numpy())
        - (share * (1 - share) * (high - low)).log().numpy()
    )
    # Constants are kept in single precision.
    close = 1e-4 if dtype == torch.float32 else 1e-6
    assert_close(scm.log_prob(values).double(), expected, rtol=close, atol=close)
    given = scm.given("intensity", values).log_prob(values["intensity"])
    assert given.shape == (7,)


@pytest.mark.parametrize("arrow", [True, False])
def test_noise_leads_back_and_follows_the_arrow_alone(arrow):
    torch.manual_seed(0)
    scm = digit_scm(arrow).double()
    with torch.no_grad():
        for parameter in scm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    values = rows(torch.float64)
    noise = scm.noise(values)
    back = scm.push(noise)
    for name, value in values.items():
        assert_close(back[name], value, rtol=1e-6, atol=0)
    thick = torch.full((7,), 4.0, dtype=torch.float64)
    moved = scm.push(noise, thickness=thick)["intensity"]
    assert ((moved - back["intensity"]).abs().max() > 5) == arrow
    dark = scm.push(noise, intensity=torch.full((7,), 70.0, dtype=torch.float64))
    assert torch.equal(dark["thickness"], back["thickness"])
    assert scm.graph == {"thickness": (), "intensity": ("thickness",) if arrow else ()}


@pytest.mark.parametrize("arrow", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_digit_is_a_root_and_moves_the_intensity_as_its_weight_says(arrow, classes):
    scm, values = digit_scm(arrow, classes=classes).double(), rows(torch.float64)
    (weights,) = (m.raw.net.first.weights for m in scm.mechanisms["intensity"].layers[:1])
    shift = torch.linspace(-1, 1, classes, dtype=torch.float64)
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
        weights["y"][:, 0] = shift
    y = torch.arange(7) % classes
    noise = scm.noise({**values, "y": y})
    other = (y + 1) % classes
    moved = scm.push(noise, y=other)
    share = [torch.logit((i - 63) / 193) for i in (values["intensity"], moved["intensity"])]
    assert torch.equal(moved["y"], other)
    if arrow:
        assert_close(share[1] - share[0], shift[other] - shift[y], rtol=1e-5, atol=1e-6)
    assert_close(moved["thickness"], values["thickness"], rtol=1e-6, atol=0)
    of = ("y", "thickness") if arrow else ("y",)
    assert scm.graph == {"y": (), "thickness": (), "intensity": of}


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("log_thickness", (0.9,), "expected two numbers"),
        ("log_thickness", (0.9, 0.0), "expected a positive deviation"),
        ("grey_levels", (255.0, 64.0), "expected the lowest, then the highest"),
    ],
)
def test_what_is_no_such_range_is_refused(option, value, told):
    with pytest.raises(ValueError, match=told):
        digit_scm(**{option: value})
