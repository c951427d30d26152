"""CITRIS-NF: a flow whose latents fall into blocks, each following a variable that is set.

Story   psi_j ~ Cat(psi)   z'_j ~ p(z'_j | z, I_psi_j), z = f(e)   e' = f^-1(z')   x' ~ p(dec(e'))
Guide   q(e' | x') of a frozen encoder, or e' = x'   z' = f(e')   psi_j, enumerated
Paper   Lippe, Magliacane, Loewe, Asano, Cohen, Gavves. ICML 2022, arXiv 2202.03169
Shapes  E blocks on the left, M latents, B rows, D data, K variables; x, x' a frame and the next
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import SMALL
from ppl_models.pair import Card, Pair
from ppl_models.parts.frames import FrameGuide, Frames, Noisy, frame_networks, some_frames
from ppl_models.parts.target_classifier import KINDS, blocks_stage


@dataclass(frozen=True)
class CitrisNFConfig(Config):
    """Settings of the paper's code, and of small vectors."""

    data_dim: int = setting(5, "D, size of x", from_data="x_next", minimum=1)
    variables: int = setting(4, "K, variables that are set", from_data="targets", minimum=1)
    latent: int = setting(0, "M, size of an autoencoder's code; 0: x is the code", minimum=0)
    shape: tuple[int, ...] = setting((), "H, W, C of x for convolutions; perceptrons without")
    channels: tuple[int, ...] = setting(SMALL, "maps of each convolution", minimum=1)
    hidden: tuple[int, ...] = setting((128,), "units of encoder, decoder back", minimum=1)
    flow_steps: int = setting(4, "autoregressive steps of the flow f", minimum=1)
    flow: tuple[int, ...] = setting((64, 64), "units of their conditioners", minimum=1)
    units: int = setting(16, "units of each latent's transition", minimum=1)
    perfect: bool = setting(False, "a variable that is set forgets what was before")
    classifier: tuple[int, ...] = setting((64,), "units of the target classifier", minimum=1)
    target_weight: float = setting(2.0, "beta_classifier, of the targets' term", minimum=0)
    spare: float = setting(0.01, "lambda, cost of a variable's latent; 0: no block 0", minimum=0)
    told: str = setting("conditional", "what a block may say of other targets", choices=KINDS)
    noise: float = setting(0.05, "deviation of the autoencoder's code", minimum=0)
    sigma: float = setting(0.1, "deviation of x about what is decoded", minimum=1e-6)


class CitrisNF(Pair):
    """Causal variables of several dimensions, from which of them were set."""

    Config = CitrisNFConfig
    config: CitrisNFConfig
    plate_nesting = 2
    card = Card(
        name="citris_nf",
        title="CITRIS: Causal Identifiability from Temporal Intervened Sequences",
        authors="Phillip Lippe, Sara Magliacane, Sindy Loewe, Yuki M. Asano, Taco Cohen, "
        "Efstratios Gavves",
        year=2022,
        arxiv="2202.03169",
        task="causal variables from sequences with known targets of interventions",
        data={"x_next": "the next frame (D)"},
        latents={"psi": "block of each latent (M)", "z_next": "latents of the next frame (M)"},
        covariates={"x": "frame (D)", "targets": "which variables are set between the two (K)"},
        objectives=("enumerated",),
        departs=(
            "encoders see frames about their mean, in place of batch norm",
            "the frame before is coded without noise, so that x_next given x has a density",
            "how often targets are set is counted once, in 1,000 rows, not as a running mean",
        ),
        limits=("of a variable only what its intervention changes can be found",),
    )

    def __init__(self, config: CitrisNFConfig) -> None:
        super().__init__(config)
        c, M = config, config.latent or config.data_dim
        encoder = decoder = None
        if c.latent:
            self.card = replace(self.card, latents={**self.card.latents, "e_next": "code (M)"})
            shape = c.shape or (c.data_dim,)
            net, decoder = frame_networks(shape, M, M, c.channels, c.hidden)
            encoder = Noisy(net, c.noise)
        self.frames = Frames(c, M, encoder, decoder)
        self.guide = FrameGuide(self.frames)

    def model(self, batch: Batch) -> None:
        """p(psi) p(z_next | z, psi, targets) p(x_next | z_next)."""
        with self.plate(batch):
            code = self.frames.next(batch)  # B x M
            if self.frames.decoder is None:
                pyro.sample("x_next", code, obs=batch.get("x_next"))
                return
            x = self.frames.decoded(pyro.sample("e_next", code))
            x = dist.Normal(x, self.config.sigma).to_event(1)  # B x D
            pyro.sample("x_next", x, obs=batch.get("x_next"))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Waves, and each variable set in its turn."""
        return some_frames(self, rows)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and lambda for each latent outside block 0."""
        assigned = inference.Penalty("assigned", self.frames.blocks.share, self.config.spare)
        return (bound or inference.EnumeratedELBO()) + assigned

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The autoencoder, if there is one, and then flow and blocks against the classifier."""
        if not self.config.latent:
            return (blocks_stage(self.frames, self.objective(bound), self.config),)
        size = inference.Penalty("size", squared_code, 1e-4)
        rest = ("frames.flow", "frames.blocks", "frames.transitions")
        start, plain = self.frames.count, inference.EnumeratedELBO(beta=0.0)
        first = inference.Stage(plain + size, "code", freeze=rest, start=start)
        own = ("frames.encoder", "frames.decoder")
        return (first, blocks_stage(self.frames, self.objective(bound), self.config, own))


def squared_code(run: inference.Evaluation) -> Tensor:
    """The squared length of each row's code ``(B,)``."""
    return run.codes("e_next").only("size").square().sum(-1)
