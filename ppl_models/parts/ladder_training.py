"""Settings of ladders of codes, and how their layers come in during training.

Progressive learning of Li et al. 2020 (arXiv 2002.10549), with steps and weights of Chen et al.
2021 (Boxhead, arXiv 2110.03628): the top layer learns alone, then the next lower one is faded in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.inference import Anneal
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import ACTIVATIONS
from ppl_models.parts.image_code import NETWORKS


@dataclass(frozen=True)
class LadderConfig(Config):
    """The image, its codes and the networks between them; sizes are of MNIST in VLAE's code."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    latent: tuple[int, ...] = setting((2, 2, 2), "sizes of z_1 .. z_L, bottom first", minimum=1)
    networks: str = setting("conv", "convolutional or dense", choices=NETWORKS)
    levels: tuple[int, ...] = setting((64, 128, 256), "maps, or units, above the image", minimum=1)
    hidden: tuple[int, ...] = setting((1024,), "units between levels and codes", minimum=1)
    activation: str = setting("relu", "between layers", choices=ACTIVATIONS)
    likelihood: str = setting("laplace", "p(x | z)", choices=LIKELIHOODS)
    emphasis: float = setting(8.0, "weight of log p(x | z) in the bound", minimum=0)
    beta: float = setting(1.0, "weight of the KL terms in the end", minimum=0)
    kl_warmup: int = setting(2000, "steps of their warm-up; none with fade_in", minimum=0)
    fade_in: int = setting(
        0, "steps in which each layer is faded in, the top one first; 0: all at once", minimum=0
    )
    first_beta: float = setting(
        150.0, "with fade_in, weight of the top layer's KL at the first step", minimum=0
    )

    def __post_init__(self) -> None:
        """Check that each code has a level to meet."""
        super().__post_init__()
        if not 0 < len(self.latent) <= len(self.levels):
            raise ValueError(
                f"latent is {self.latent} and levels are {self.levels}, expected at least one "
                "code, and a level for each"
            )

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the codes, from the bottom up."""
        return tuple(f"z_{layer}" for layer in range(1, len(self.latent) + 1))


class FadeIn(nn.Module):
    """How far each layer has come in: the top one wholly, from the start; the others in turn.

    The share of layer l grows from 0 to 1 between the steps (L - l) F and (L - l + 1) F.

    Args:
        layers: Their number L.
        steps: F; 0 for all layers from the start.
    """

    alpha: Tensor

    def __init__(self, layers: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("alpha", torch.ones(layers))
        self.begin()

    def begin(self, batch: Batch | None = None) -> None:
        """Give the shares the values of the first step, as a stage's start does."""
        if self.steps:
            self.alpha[:-1] = 0

    def forward(self, layer: int) -> Tensor:
        """The share of a layer, counted from 1 at the bottom."""
        return self.alpha[layer - 1]

    def schedules(self) -> tuple[Anneal, ...]:
        """The share of each layer by steps, bottom first."""
        rising = []
        for turn in range(len(self.alpha) - 1, 0, -1):
            end = turn + 1
            rising.append(Anneal(0, 1, start=turn / end, steps=end * self.steps))
        return (*rising, Anneal(1, 1, steps=self.steps))


def betas(
    c: LadderConfig, shape: str, gamma: float = 1.0
) -> float | Anneal | dict[str, float | Anneal]:
    """Weights of the KL terms: warmed up, or by layer where layers are faded in.

    Args:
        c: The settings.
        shape: Of the warm-up: ``"linear"``; or ``"exponential"``, whose time constant its steps
            then are.
        gamma: Weight of a layer before it is faded in.
    """
    F, top = c.fade_in, len(c.sites)
    if F:
        first = {
            site: Anneal(gamma, c.beta, start=1, steps=F * (top - layer))
            for layer, site in enumerate(c.sites[:-1], 1)
        }
        return {**first, c.sites[-1]: Anneal(c.first_beta, c.beta, steps=F)}
    if not c.kl_warmup:
        return c.beta
    constants = 5 if shape == "exponential" else 1
    return Anneal(0, c.beta, steps=constants * c.kl_warmup, shape=shape)


def bound(
    c: LadderConfig,
    given: inference.Objective | None,
    shape: str,
    gamma: float = 1.0,
) -> inference.Objective:
    """The bound with its weights.

    Args:
        c: The settings.
        given: The bound that the user asks for, in place of the paper's.
        shape: As :func:`betas` has it.
        gamma: Likewise.
    """
    own = given or inference.ELBO(kl="analytic", beta=betas(c, shape, gamma))
    return own if c.emphasis == 1 else own + inference.Emphasis("x", c.emphasis)


def stages(
    objective: inference.Objective, fade: FadeIn, training: inference.Training
) -> tuple[inference.Stage, ...]:
    """The one stage of a ladder, whose layers are faded in where that is asked for.

    Args:
        objective: What is made large.
        fade: The shares.
        training: How it is optimised.
    """
    if not fade.steps:
        return (inference.Stage(objective, training=training),)
    after = inference.scheduled(fade, "alpha", fade.schedules())
    return (inference.Stage(objective, start=fade.begin, after=after, training=training),)
