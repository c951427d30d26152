"""DIP-VAE: at weights of 0 it is the VAE to the bit; its kinds are covariances of two codes."""

from __future__ import annotations

import pytest
import torch
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import data, inference

SMALL = {"networks": "dense", "hidden": (6,), "latent": 3}
OPTIONS = {**QUIET, "steps": 12, "batch_size": 30, "seed": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=100, validation=10, test=10)


def built(name, digits, **settings):
    return zoo.build(name, digits, seed=1, **SMALL, **settings)


def told(run):
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    return curve, {n: v.detach() for n, v in run.pair.state_dict().items()}


@pytest.fixture(scope="module")
def vae(digits):
    return told(inference.fit(built("beta_vae", digits, beta=1.0), digits, **OPTIONS))


@pytest.mark.parametrize("way", ["at once", "resumed"])
@pytest.mark.parametrize("kind", ["I", "II"])
def test_weights_of_0_are_the_vae_to_the_bit(digits, vae, kind, way, tmp_path):
    def make():
        return built("dip_vae", digits, kind=kind, lambda_od=0.0, lambda_d=0.0)

    if way == "resumed":
        run = resumed(make, digits, tmp_path / "run", **OPTIONS)
    else:
        run = inference.fit(make(), digits, **OPTIONS)
    for found, alone in zip(told(run), vae, strict=True):
        assert all(torch.equal(value, found[name]) for name, value in alone.items())
    assert not any(run.history["code_covariance(z)"])


def test_weights_above_0_are_another_fit(digits, vae):
    _, weights = told(inference.fit(built("dip_vae", digits), digits, **OPTIONS))
    assert not all(torch.equal(value, weights[name]) for name, value in vae[1].items())


def test_its_kinds(digits):
    first = built("dip_vae", digits).objective()
    second = built("dip_vae", digits, kind="II", lambda_od=5.0, lambda_d=5.0).objective()
    assert repr(first) == "ELBO(kl='analytic') + CodeCovariance('z', 10, 100)"
    assert repr(second) == "ELBO(kl='analytic') + CodeCovariance('z', 5, 5, of='aggregate')"
