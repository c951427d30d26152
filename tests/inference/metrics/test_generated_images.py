"""Images of a pair whose prior and likelihood are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.data import Table
from ppl_models.inference import metrics
from ppl_models.inference.metrics import generated_images, reconstruct_images, sample_images

LOGIT = 2.0


@dataclass(frozen=True)
class FlagConfig(Config):
    grey: bool = setting(False, "whether pixels are grey, about a mean beyond 1")


class About(guides.Conditional):
    """q(z | x): nearly all mass at the sum of the pixels."""

    def __init__(self) -> None:
        super().__init__(("x",))

    def forward(self, **values: torch.Tensor) -> dist.Independent:
        return dist.Normal(values["x"].sum(-1, keepdim=True), 1e-4).to_event(1)


class Flag(Pair):
    """Two pixels, of opposite logits."""

    Config = FlagConfig
    card = Card(
        name="flag", title="Flag", authors="-", year=2017, arxiv="1706.08500", task="images",
        data={"x": "pixels (2)"}, latents={"z": "code (1)"}, objectives=("elbo",),
        covariates={"c": "shift"},
    )  # fmt: skip

    def __init__(self, config: FlagConfig) -> None:
        super().__init__(config)
        self.slope = torch.nn.Parameter(torch.tensor([LOGIT, -LOGIT]))
        self.drop = torch.nn.Dropout(0.5)
        self.guide = guides.Factored(z=About())

    def some_covariates(self, rows):
        return {"c": torch.zeros(rows)}

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(1)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            raw = self.drop(self.slope * (z + batch["c"].unsqueeze(-1)))
            grey = self.config.grey
            x = dist.Normal(raw, 0.1) if grey else dist.Bernoulli(logits=raw)
            pyro.sample("x", x.to_event(1), obs=batch.get("x"))


class Sharing(Flag):
    """The shift of all rows is unknown, about 0 before the fit and about 3 after it."""

    def __init__(self, config: FlagConfig) -> None:
        super().__init__(config)
        self.guide = Knowing()

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(1)
        w = pyro.sample("w", dist.Normal(zero, 1.0).to_event(1))
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(w, 0.01).to_event(1))
            x = dist.Bernoulli(logits=self.slope * z)
            pyro.sample("x", x.to_event(1), obs=batch.get("x"))


class Knowing(torch.nn.Module):
    def forward(self, batch: Batch) -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor([3.0]), 0.1).to_event(1))
        with batch.plate():
            pyro.sample("z", dist.Normal(w, 0.01).to_event(1))


@pytest.fixture(scope="module")
def pair():
    return Flag(FlagConfig())


def asked(pair, n, seed=0, **options):
    return sample_images(pair, n, seed, covariates={"c": options.pop("c", 0.0)}, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_are_the_likelihoods_at_codes_of_the_prior(pair, dtype):
    found = asked(Flag(FlagConfig()).to(dtype), 2000)
    assert found.shape == (2000, 2) and found.dtype == dtype
    # Opposite logits, so both pixels tell of one code, which is standard Normal.
    assert torch.allclose(found.sum(1), torch.ones(2000, dtype=dtype), atol=1e-6)
    z = torch.logit(found[:, 0].double()) / LOGIT
    assert abs(float(z.mean())) < 4 / 2000**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / 2000) ** 0.5
    # A covariate moves it by a known amount, at the same draws.
    moved = torch.logit(asked(pair, 300, c=0.5)[:, 0].double()) / LOGIT
    assert torch.allclose(moved - torch.logit(asked(pair, 300)[:, 0].double()) / LOGIT,
                          torch.full((300,), 0.5).double(), atol=1e-3)  # fmt: skip


def test_draws_are_pixels_and_have_the_means_as_their_mean(pair):
    drawn = asked(pair, 4000, mean=False)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # By symmetry each pixel is on in half of the images.
    assert torch.allclose(drawn.mean(0), torch.full((2,), 0.5), atol=4 * 0.5 / 4000**0.5)


def test_the_first_images_are_the_same_however_many_are_asked_for(pair):
    block = generated_images.BLOCK
    many = asked(pair, 2 * block + 3)
    for n in (1, block - 1, block, block + 1):
        assert torch.equal(asked(pair, n), many[:n])
    assert len(many.unique(dim=0)) == len(many)  # no block is another one again
    assert not torch.equal(asked(pair, 5, seed=1), many[:5])


def test_nothing_is_left_of_it(pair):
    state, training = torch.random.get_rng_state(), pair.training
    found = asked(pair, 5)
    assert not found.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pair.training == training  # though dropout was off meanwhile


def test_grey_images_are_clipped():
    found = asked(Flag(FlagConfig(grey=True)), 500)
    assert found.min() == 0 and found.max() == 1
    assert bool(((found == 0).any(1)).all())  # of opposite means one is below 0


def test_what_all_rows_share_is_as_the_fit_has_it():
    found = torch.logit(asked(Sharing(FlagConfig()), 600)[:, 0]) / LOGIT
    shifts = [part.mean() for part in found.split(generated_images.BLOCK)]
    # Ten deviations of the guide's; three draws of the prior are all there once in 90,000 times.
    assert all(2 < shift < 4 for shift in shifts)
    assert len(set(shifts)) == 3 and float(found[:256].std()) == pytest.approx(0.01, rel=0.3)


def test_reconstructions_go_through_the_codes_of_their_own_rows(pair):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]).repeat(300, 1)
    c = torch.zeros(len(x))
    table = Table("flags", {"x": x, "c": c})
    found = reconstruct_images(pair, table)
    wanted = torch.sigmoid(x.sum(1, keepdim=True) * torch.tensor([LOGIT, -LOGIT]))
    assert torch.allclose(found, wanted, atol=1e-3)
    few = reconstruct_images(pair, table, rows=[2, 0])
    assert torch.allclose(few, wanted[[2, 0]], atol=1e-3)
    drawn = reconstruct_images(pair, table, mean=False)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn, reconstruct_images(pair, table, mean=False))


def test_what_does_not_fit_is_one_line(pair):
    with pytest.raises(ValueError, match="unknown site of the data 'z'"):
        asked(pair, 3, site="z")
    with pytest.raises(ValueError, match="unknown site of the data 'y'"):
        reconstruct_images(
            pair, Table("t", {"x": torch.zeros(2, 2), "c": torch.zeros(2)}), site="y"
        )
    with pytest.raises(ValueError, match="n is 0, expected at least 1"):
        asked(pair, 0)
    with pytest.raises(ValueError, match="flag has the covariate 'c'"):
        sample_images(pair, 3)
    with pytest.raises(ValueError, match="seed is -1"):
        asked(pair, 3, seed=-1)


def test_they_stand_on_the_face():
    assert metrics.sample_images is sample_images
