"""CITRIS-NF: a flow whose latents fall into blocks, each following a variable that is set.

Story   psi_j ~ Cat(psi)   z'_j ~ p(z'_j | z, I_psi_j), z = f(e)   e' = f^-1(z')   x' ~ p(dec(e'))
Guide   q(e' | x') of a frozen encoder, or e' = x'   z' = f(e')   psi_j, enumerated
Paper   Lippe, Magliacane, Loewe, Asano, Cohen, Gavves. ICML 2022, arXiv 2202.03169
Shapes  E blocks on the left, M latents, B rows, D data, K variables; x, x' a frame and the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import SMALL
from ppl_models.pair import Card, Pair
from ppl_models.parts import intervened_latents as parts
from ppl_models.parts.frame_networks import frame_networks
from ppl_models.parts.target_classifier import KINDS, Noise, target_classifier


@dataclass(frozen=True)
class CitrisNFConfig(Config):
    """Settings of the paper's code, and of small vectors."""

    data_dim: int = setting(5, "D, size of x", from_data="x_next", minimum=1)
    variables: int = setting(4, "K, variables that are set", from_data="targets", minimum=1)
    latent: int = setting(0, "M, size of the autoencoder's code; 0: x itself is the code", minimum=0)
    shape: tuple[int, ...] = setting((), "H, W, C of x for convolutions; perceptrons without")
    channels: tuple[int, ...] = setting(SMALL, "maps of each convolution", minimum=1)
    hidden: tuple[int, ...] = setting((128,), "units of encoder, decoder back", minimum=1)
    steps: int = setting(4, "autoregressive steps of the flow f", minimum=1)
    flow: tuple[int, ...] = setting((64, 64), "units of their conditioners", minimum=1)
    units: int = setting(16, "units of each latent's transition", minimum=1)
    perfect: bool = setting(False, "a variable that is set forgets what was before")
    classifier: tuple[int, ...] = setting((64,), "units of the target classifier", minimum=1)
    beta: float = setting(2.0, "beta_classifier, weight of the targets' term", minimum=0)
    spare: float = setting(0.01, "lambda, cost of a variable's latent; 0: no block 0", minimum=0)
    told: str = setting("conditional", "what a block may say of other targets", choices=KINDS)
    noise: float = setting(0.05, "deviation of the autoencoder's code", minimum=0)
    scale: float = setting(0.1, "deviation of x about what is decoded", minimum=1e-6)


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
            "the frame before is coded without noise, so that x_next given x has a density",
            "how often targets are set is counted once, in 1,000 rows, not as a running mean",
        ),
        limits=("of a variable only what its intervention changes can be found",),
    )

    def __init__(self, config: CitrisNFConfig) -> None:
        super().__init__(config)
        c, M = config, config.latent or config.data_dim
        self.flow = parts.Flow(M, c.steps, c.flow)
        self.blocks = parts.Blocks(M, c.variables, spare=c.spare > 0)
        self.transitions = parts.Transitions(M, c.variables, c.units, c.perfect)
        self.decoder, encoder = None, None
        if c.latent:
            self.card = replace(self.card, latents={**self.card.latents, "e_next": "code (M)"})
            shape = c.shape or (c.data_dim,)
            net, self.decoder = frame_networks(shape, M, M, c.channels, c.hidden)
            encoder = parts.Noisy(net, c.noise)
        self.guide = parts.FrameGuide(self.flow, self.blocks, encoder)

    def code(self, batch: Batch) -> Tensor:
        """Latents of the frame ``x``, ``(B, M)``."""
        return self.guide.code(batch["x"])

    def model(self, batch: Batch) -> None:
        """p(psi) p(z_next | z, psi, targets) p(x_next | z_next)."""
        with self.plate(batch):
            z_next = self.transitions.sample(self.blocks, self.code(batch), batch["targets"])
            vector = parts.Carried(self.flow, z_next)  # B x M
            if self.decoder is None:
                pyro.sample("x_next", vector, obs=batch.get("x_next"))
                return
            e = pyro.sample("e_next", vector)
            x = dist.Normal(self.decoder(e=e), self.config.scale).to_event(1)  # B x D
            pyro.sample("x_next", x, obs=batch.get("x_next"))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Waves, and each variable set in its turn."""
        return parts.some_frames(self, rows)

    def combine(self, first: Batch, second: Batch, variables: Sequence[int]) -> Tensor:
        """Frames with the latents of some variables' blocks (0 of none's) as in the second's."""
        z = self.blocks.swapped(self.code(first), self.code(second), variables)
        e = self.flow.inverse(z)
        return e if self.decoder is None else self.decoder(e=e)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and lambda for each latent outside block 0."""
        bound = bound or inference.EnumeratedELBO()
        return bound + inference.Penalty("assigned", self.blocks.share, self.config.spare)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The autoencoder, if there is one, and then flow and blocks against the classifier."""
        c = self.config
        term, player = target_classifier(self.blocks, self.code, c.classifier, c.beta, c.told)
        blocks = inference.Stage(
            self.objective(bound) + term,
            start=self.blocks.count,
            prepare=Noise(self.blocks),
            players=(player,),
            freeze=("guide.encoder", "decoder") if c.latent else (),
        )
        if not c.latent:
            return (blocks,)
        rest = ("flow", "blocks", "transitions")
        plain = inference.EnumeratedELBO(beta=0.0)
        size = inference.Penalty("size", lambda run: run.codes("e_next").only("size").square().sum(-1), 1e-4)
        return (inference.Stage(plain + size, "autoencoder", freeze=rest), blocks)
