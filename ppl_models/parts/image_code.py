"""Settings, networks and bound that VAEs of one code share: their papers differ in the objective.

Which distribution the code has is the pair's own; :func:`posterior` is the Gaussian of most.
Images come and go flat, and networks are those of the disentanglement study (Locatello et al.
2019, arXiv 1811.12359), whose settings and loss (Section 5 and Appendix H) are the defaults here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from ppl_models import guides, inference
from ppl_models.config import Config, setting
from ppl_models.image_networks import STUDY, conv_decoder, conv_encoder
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import ACTIVATIONS, Net
from ppl_models.parts.code_networks import Standardised

NETWORKS = ("conv", "dense")
STUDY_TRAINING = inference.Training(steps=300_000, batch_size=64, learning_rate=1e-4)


@dataclass(frozen=True)
class CodeNetworksConfig(Config):
    """The image, its code and the networks between them; defaults are the study's."""

    shape: tuple[int, ...] = setting((64, 64, 1), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    latent: int = setting(10, "D, size of z", minimum=2)
    networks: str = setting("conv", "convolutional, as the study's, or dense", choices=NETWORKS)
    channels: tuple[int, ...] = setting(STUDY, "maps of each convolutional layer", minimum=1)
    hidden: tuple[int, ...] = setting((256,), "units of each dense layer", minimum=1)
    activation: str = setting("relu", "between layers", choices=ACTIVATIONS)


@dataclass(frozen=True)
class ImageCodeConfig(CodeNetworksConfig):
    """The same, and how the image is scored."""

    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)
    emphasis: float = setting(1.0, "weight of log p(x | z) in the bound", minimum=0)


@dataclass(frozen=True)
class StandardUnitsConfig(CodeNetworksConfig):
    """The same of images whose errors count in units of their deviation, as standardised ones'."""

    centre: float = setting(0.0, "mean of the numbers of x")
    deviation: float = setting(1.0, "their standard deviation", minimum=1e-6)


def standard_encoder(c: StandardUnitsConfig, outputs: int) -> Standardised:
    """A network from the image ``x``, which it sees standardised, to that many numbers."""
    net = Standardised(encoder(c, outputs), math.prod(c.shape))
    net.mean.fill_(c.centre)
    net.deviation.fill_(c.deviation)
    return net


def encoder(c: CodeNetworksConfig, outputs: int) -> nn.Module:
    """A network from the image ``x``, flat, to that many numbers."""
    if c.networks == "dense":
        return Net({"x": math.prod(c.shape)}, c.hidden, outputs, c.activation)
    return conv_encoder(
        c.shape, outputs, channels=c.channels, hidden=c.hidden, activation=c.activation
    )


def posterior(c: CodeNetworksConfig) -> guides.Normal:
    """The factor q(z | x) = N(mu(x), diag sigma(x)^2)."""
    return guides.Normal(c.latent, {"x": math.prod(c.shape)}, net=encoder(c, 2 * c.latent))


def decoder(c: ImageCodeConfig, **given: int) -> nn.Module:
    """A network from codes to what the likelihood of the image takes.

    Args:
        c: The settings.
        given: Size of each code by site; ``z`` of the settings' size by default.
    """
    return images(c, LIKELIHOODS[c.likelihood].outputs, **given)


def images(c: CodeNetworksConfig, each: int = 1, **given: int) -> nn.Module:
    """A network from codes to so many numbers for each entry of the image.

    Args:
        c: The settings.
        each: Numbers for each entry.
        given: As of :func:`decoder`.
    """
    given = given or {"z": c.latent}
    if c.networks == "dense":
        return Net(given, c.hidden[::-1], each * math.prod(c.shape), c.activation)
    return conv_decoder(
        given,
        c.shape,
        each=each,
        channels=c.channels,
        hidden=c.hidden,
        activation=c.activation,
    )


def bound(
    c: ImageCodeConfig, given: inference.Objective | None, beta: float | inference.Anneal = 1.0
) -> inference.Objective:
    """The bound that a paper's terms stand beside.

    Args:
        c: The settings.
        given: The bound that the user asks for, in place of the paper's.
        beta: Weight of the KL term in the paper's own.
    """
    own = given or inference.ELBO(kl="analytic", beta=beta)
    return own if c.emphasis == 1 else own + inference.Emphasis("x", c.emphasis)
