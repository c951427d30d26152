"""A hierarchy of codes from the top down, and posteriors that correct its priors.

Shapes: codes ``(..., d_l)``.
"""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.guides.factors import Conditional
from ppl_models.parts.ladder_networks import Decoder, Levels, Moments
from ppl_models.parts.ladder_training import FadeIn, LadderConfig
from ppl_models.parts.set_contexts import normal


def product_of_normals(
    first: dist.TorchDistribution, second: dist.TorchDistribution, weight: Tensor | float = 1.0
) -> dist.TorchDistribution:
    r"""The Normal that a product of two densities is in proportion to.

    :math:`N(\mu_1, \sigma_1^2)\, N(\mu_2, \sigma_2^2)^w`: its precision is
    :math:`\sigma_1^{-2} + w \sigma_2^{-2}`, and its mean that of the two means weighed by these
    (Sonderby et al. 2016, arXiv 1602.02282, eq. 17 to 19, with w = 1).

    Args:
        first: Diagonal Normals over vectors.
        second: The same.
        weight: w, at least 0.
    """
    means, scales = zip(*((fn.mean, fn.stddev) for fn in (first, second)), strict=True)
    precisions = scales[0] ** -2, weight * scales[1] ** -2
    total = precisions[0] + precisions[1]
    mean = (means[0] * precisions[0] + means[1] * precisions[1]) / total
    return dist.Normal(mean, total.rsqrt()).to_event(1)


class TopDown(nn.Module):
    """Priors p(z_l | z_l+1, ..) and the image of codes, made on the way down.

    Args:
        c: The settings.
        fade: Shares of the layers, no part of this module. Below a layer, so much of the way
            from its prior's mean to its code is seen.
        skips: Whether all codes above are seen, not the next one alone.
    """

    zero: Tensor

    def __init__(self, c: LadderConfig, fade: FadeIn, skips: bool) -> None:
        super().__init__()
        levels = Levels(c)
        self.sites, self.sizes = c.sites, dict(zip(c.sites, c.latent, strict=True))
        self.fade, self.decoder = (fade,), Decoder(c, skips)
        self.priors = nn.ModuleDict(
            {
                site: levels.moments(k + 1, c.latent[k - 1])
                for k, site in enumerate(c.sites[:-1], 1)
            }
        )
        self.register_buffer("zero", torch.zeros(c.latent[-1]), persistent=False)

    def share(self, site: str) -> Tensor:
        """How far a site's layer has come in."""
        share: Tensor = self.fade[0](int(site[2:]))
        return share

    def prior(self, site: str, path: Tensor | None) -> dist.TorchDistribution:
        """The prior of a code.

        Args:
            site: Its name.
            path: What the codes above it have made, of the level where it enters; None at the
                top.
        """
        if path is None:
            return dist.Normal(self.zero, self.zero + 1).to_event(1)
        return normal(self.priors[site](path))

    def below(
        self, site: str, path: Tensor | None, z: Tensor, prior: dist.TorchDistribution
    ) -> Tensor:
        """What a code and those above it make, of the level where the next one enters.

        Args:
            site: Its name.
            path: As :meth:`prior` has it.
            z: The code.
            prior: Its prior.
        """
        if path is not None:
            z = prior.mean + self.share(site) * (z - prior.mean)
        return self.decoder.below(int(site[2:]), path, z)

    def image(self, path: Tensor | None) -> Tensor:
        """What the likelihood takes of the end of the path."""
        return self.decoder.image(cast(Tensor, path))

    def above(self, site: str) -> tuple[str, ...]:
        """Names of the codes above one, from the top down."""
        return tuple(reversed(self.sites[int(site[2:]) :]))


class Corrected(Conditional):
    """q(z_l | x, z_l+1, ..): the prior given the codes above, times evidence from the image.

    At the top the evidence alone. The evidence's precision counts times the layer's share.

    Args:
        levels: The levels of the trunk.
        story: The priors, no part of this module.
        site: Name of the code.
    """

    def __init__(self, levels: Levels, story: TopDown, site: str) -> None:
        layer = int(site[2:])
        reads, to = (layer, layer + 1) if layer < len(story.sites) else 2 * (levels.top,)
        net = Moments(levels, reads, story.sizes[site], to)
        super().__init__((*net.given, *story.above(site)))
        self.net, self.story, self.site = net, (story,), site

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """The distribution given features of the image and the codes above."""
        (features, *above), (story,) = self.given, self.story
        evidence = normal(self.net(**{features: values[features]}))
        path: Tensor | None = None
        for site in above:
            path = story.below(site, path, values[site], story.prior(site, path))
        if path is None:
            return evidence
        return product_of_normals(story.prior(self.site, path), evidence, story.share(self.site))
