"""CITRIS-VAE: latents of images fall into blocks, each following a variable that is set.

Story   psi_j ~ Cat(psi)   z'_j ~ p(z'_j | z, I_psi_j), z = f(e)   e' = f^-1(z')   x' ~ p(dec(e'))
Guide   q(e' | x'), a Normal   z' = f(e')   psi_j, enumerated
Paper   Lippe, Magliacane, Loewe, Asano, Cohen, Gavves. ICML 2022, arXiv 2202.03169
Shapes  E blocks on the left, M latents, B rows, D = H W C pixels, K variables; x' the next frame
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import SMALL
from ppl_models.pair import Card, Pair
from ppl_models.parts.frames import FrameGuide, Frames, frame_networks, some_frames
from ppl_models.parts.target_classifier import KINDS, blocks_stage


@dataclass(frozen=True)
class CitrisVAEConfig(Config):
    """Settings of the paper's code for images of 32 x 32."""

    shape: tuple[int, ...] = setting((32, 32, 3), "H, W, C of x", shape_from="x_next")
    variables: int = setting(5, "K, variables that are set", from_data="targets", minimum=1)
    latent: int = setting(16, "M, number of latents", minimum=1)
    channels: tuple[int, ...] = setting(SMALL, "maps of each convolution", minimum=1)
    hidden: tuple[int, ...] = setting((128,), "units of encoder, decoder back", minimum=1)
    flow_steps: int = setting(4, "autoregressive steps of the flow f; none: no flow", minimum=0)
    flow: tuple[int, ...] = setting((64, 64), "units of their conditioners", minimum=1)
    units: int = setting(32, "units of each latent's transition", minimum=1)
    perfect: bool = setting(False, "a variable that is set forgets what was before")
    classifier: tuple[int, ...] = setting((128,), "units of the target classifier", minimum=1)
    beta: float = setting(1.0, "beta_t1, weight of the latents' KL", minimum=0)
    target_weight: float = setting(2.0, "beta_classifier, of the targets' term", minimum=0)
    spare: float = setting(0.01, "lambda, cost of a variable's latent; 0: no block 0", minimum=0)
    told: str = setting("conditional", "what a block may say of other targets", choices=KINDS)
    sigma: float = setting(0.35, "deviation of x about what is decoded", minimum=1e-6)


class CitrisVAE(Pair):
    """Causal variables of several dimensions behind images, from which of them were set."""

    Config = CitrisVAEConfig
    config: CitrisVAEConfig
    plate_nesting = 2
    card = Card(
        name="citris_vae",
        title="CITRIS: Causal Identifiability from Temporal Intervened Sequences",
        authors="Phillip Lippe, Sara Magliacane, Sindy Loewe, Yuki M. Asano, Taco Cohen, "
        "Efstratios Gavves",
        year=2022,
        arxiv="2202.03169",
        task="causal variables from images with known targets of interventions",
        data={"x_next": "the next image (D)"},
        latents={
            "psi": "block of each latent (M)",
            "z_next": "latents of the next image (M)",
            "e_next": "what the encoder sees of them (M)",
        },
        covariates={"x": "image (D)", "targets": "which variables are set between the two (K)"},
        objectives=("enumerated",),
        departs=(
            "encoders see frames about their mean, in place of batch norm",
            "the image before is coded at its mean, so that x_next given x has a density",
            "the decoder reads e', which the flow makes of the latents, as the encoder gives it",
            "how often targets are set is counted once, in 1,000 rows, not as a running mean",
            "sigma 0.35 of pixels from 0 to 1: the paper's squared error of pixels from -1 to 1",
        ),
        limits=("of a variable only what its intervention changes can be found",),
        picture="two images, both decoded, and the first with box, or height, of the second",
    )

    def __init__(self, config: CitrisVAEConfig) -> None:
        super().__init__(config)
        c, M, D = config, config.latent, math.prod(config.shape)
        net, decoder = frame_networks(c.shape, M, 2 * M, c.channels, c.hidden)
        self.frames = Frames(c, M, guides.Normal(M, {"x": D}, net=net), decoder)
        self.guide = FrameGuide(self.frames)

    def model(self, batch: Batch) -> None:
        """p(psi) p(z_next | z, psi, targets) p(e_next | z_next) p(x_next | e_next)."""
        with self.plate(batch):
            e_next = pyro.sample("e_next", self.frames.next(batch))  # B x M
            x = dist.Normal(self.frames.decoded(e_next), self.config.sigma).to_event(1)
            pyro.sample("x_next", x, obs=batch.get("x_next"))  # B x D

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Waves, and each variable set in its turn."""
        return some_frames(self, rows)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and lambda for each latent outside block 0."""
        assigned = inference.Penalty("assigned", self.frames.blocks.share, self.config.spare)
        return (bound or inference.EnumeratedELBO(beta=self.config.beta)) + assigned

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """Story and guide against the classifier."""
        return (blocks_stage(self.frames, self.objective(bound), self.config),)
