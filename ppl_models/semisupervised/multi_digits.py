"""Scenes with none to some digits: how many there are is labelled in a few rows.

Story   count ~ Cat(1/(K+1))   where_k ~ N(0, I_3)   style_k ~ N(0, I_L)   for k < count
        x ~ N(the count's glyphs dec(style_k), each stamped at where_k, sigma^2)
Guide   q(count | x) prod_k q(where_k | x, where_<k) q(style_k | x cut out at where_k)
Paper   Siddharth et al. NIPS 2017, arXiv 1706.00400, Section 4.3 (Multi-MNIST)
Shapes  E enumeration and particles on the left, B rows, K digits at most, D canvas, G glyph
"""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior
from ppl_models.parts.scenes import Glance, Read, Seek, stamp


@dataclasses.dataclass(frozen=True)
class MultiDigitsConfig(Config):
    """Settings for canvases of 40 x 40 pixels with digits of about 14 x 14."""

    data_dim: int = setting(1600, "D, pixels of the square canvas", from_data="x", minimum=1)
    counts: int = setting(4, "K + 1, counts from 0 on", from_data="count", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior(of="count")
    glyph: int = setting(14, "side of a digit of scale 1", minimum=1)
    latent: int = setting(10, "L, size of a style", minimum=1)
    hidden: tuple[int, ...] = setting((128,), "hidden units of glyphs and styles", minimum=1)
    channels: int = setting(16, "channels of the convolutions", minimum=1)
    alpha: float = setting(10.0, "alpha, extra weight of log q(count | x)", minimum=0)
    gamma: float = setting(1.0, "gamma, weight of a labelled row", minimum=0)


def _latents(most: int) -> dict[str, str]:
    sites = {"count": "number of digits"}
    for k in range(most):
        sites[f"where_{k}"] = f"log scale and middle of digit {k}"
        sites[f"style_{k}"] = f"looks of digit {k} (L)"
    return sites


class MultiDigits(Pair):
    """A count, and as many digits with a place and a style each."""

    Config = MultiDigitsConfig
    config: MultiDigitsConfig
    card: Card = Card(
        name="multi_digits",
        title="Learning Disentangled Representations with Semi-Supervised Deep Generative Models",
        authors="N. Siddharth, Brooks Paige, Jan-Willem van de Meent, Alban Desmaison, "
        "Noah D. Goodman, Pushmeet Kohli, Frank Wood, Philip H. S. Torr",
        year=2017,
        arxiv="1706.00400",
        task="counting objects, semi-supervised",
        data={"x": "canvas (D)"},
        latents=_latents(3),
        labels=("count",),
        objectives=("self_normalised", "enumerated"),
        departs=("a digit's class is part of its style",),
        limits=("square canvases; places and styles of digits that are not there mean nothing",),
        picture="scenes of MNIST digits drawn again with other counts, and drawn from the story",
    )

    def __init__(self, config: MultiDigitsConfig) -> None:
        super().__init__(config)
        D, G, L, H = config.data_dim, config.glyph, config.latent, config.hidden
        self.card = dataclasses.replace(self.card, latents=_latents(config.counts - 1))
        self.side = math.isqrt(D)
        if self.side**2 != D:
            raise ValueError(f"data_dim is {D}, expected a square number of pixels")
        self.label_prior = LabelPrior(config.label_prior, {"count": config.counts})
        self.decoder = Net({"style": L}, H, G * G, "relu")
        self.log_sigma = nn.Parameter(torch.tensor(-1.2))
        glance = Glance(self.side, config.channels, config.counts)
        seek, read = Seek(self.side, G, config.channels), Read(self.side, G, H, 2 * L)
        factors: dict[str, guides.Conditional] = {}
        factors["count"] = guides.Categorical(config.counts, {"x": D}, net=glance)
        for k in range(config.counts - 1):
            before = {"x": D, **{f"where_{j}": 3 for j in range(k)}}
            style = guides.Normal(L, {"x": D, f"where_{k}": 3}, net=read)
            factors[f"where_{k}"] = guides.Present(guides.Normal(3, before, net=seek), "count", k)
            factors[f"style_{k}"] = guides.Present(style, "count", k)
        self.guide = guides.Factored(**factors)

    def glyph(self, style: Tensor) -> Tensor:
        """Styles ``(..., L)`` to pictures ``(..., G, G)`` from 0 to 1."""
        return torch.unflatten(self.decoder(style=style).sigmoid(), -1, 2 * (self.config.glyph,))

    def model(self, batch: Batch) -> None:
        """p(count) prod_k p(where_k) p(style_k) p(x | all)."""
        zero, numbers = self.like().new_zeros(self.config.latent), self.label_prior("count")
        styles, places = (dist.Normal(zero.new_zeros(n), 1).to_event(1) for n in (len(zero), 3))
        with self.plate(batch):
            count = pyro.sample("count", numbers, obs=batch.get("count"))  # E x B
            empty = torch.ones_like(zero[:1])  # E x B x D, the share of a pixel still empty
            for k in range(self.config.counts - 1):
                with poutine.mask(mask=count > k):
                    where = pyro.sample(f"where_{k}", places)  # E x B x 3
                    style = pyro.sample(f"style_{k}", styles)  # E x B x L
                ink = stamp(self.glyph(style), where, self.side).flatten(-2)  # B x D
                empty = empty * (1 - (count > k).unsqueeze(-1) * ink)
            x = dist.Normal(1 - empty, self.log_sigma.exp()).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The self-normalised bound; missing counts are summed out."""
        if bound is not None:
            return bound + inference.Classification("count", self.config.alpha)
        return inference.SelfNormalisedELBO(1, alpha=self.config.alpha, gamma=self.config.gamma)
