"""MEME: the encoder of each of two modalities is the prior of the other's code.

Story   z ~ mean_i q(z | u_i), u_i learnt rows of the modality that is missing, else of both
        s | z ~ p(dec_s(z))   t | z ~ p(dec_t(z))
Guide   q(z | s), q(z | t), the encoders; of rows that have both, their even mixture
Paper   Joy, Shi, Torr, Rainforth, Schmon, Siddharth. ICLR 2022, arXiv 2106.12570
Shapes  K draws on the left, B rows, D_s and D_t data, L code, N learnt rows of each modality
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyro
from torch import nn

from ppl_models import guides, inference, modalities
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.pair import Card, Pair
from ppl_models.parts.modalities import Modalities, ModalitiesConfig, PseudoInputs, pseudo_prior


@dataclass(frozen=True)
class MEMEConfig(ModalitiesConfig):
    """Settings for the paired digits."""

    particles: int = setting(10, "K, fresh draws in q(t | s)", minimum=1)
    classifier: float = setting(
        1.0, "weight of log q(t | s) beside the bracket; the paper's code has 10", minimum=0
    )
    pseudo: int = setting(100, "N, learnt rows u_i of each modality", minimum=1)


class MEME(Pair):
    """Mutual supervision."""

    Config = MEMEConfig
    config: MEMEConfig
    card: Card = Card(
        name="meme",
        title="Learning Multimodal VAEs through Mutual Supervision",
        authors="Tom Joy, Yuge Shi, Philip H. S. Torr, Tom Rainforth, Sebastian M. Schmon, "
        "N. Siddharth",
        year=2022,
        arxiv="2106.12570",
        task="two modalities, of which rows may lack one",
        data={"s": "first modality (D_s)", "t": "second modality (D_t)"},
        latents={"z": "code (L)"},
        objectives=("mutual_supervision", "elbo"),
        departs=(
            "both directions halved, as in the paper, where its code adds them",
            "each of the K + 1 draws stands in the bracket in turn, in place of the first alone: "
            "the same expectation with less noise",
            "what was measured has log q(t | s) times 10, as the paper's code and not its text; "
            "without, no decoder learns from codes of the other modality",
            "rows without modalities, such as draws from the story, mix the learnt rows of both",
        ),
        limits=("two modalities",),
        picture="test digits of either kind, and what the other modality would be by MEME and "
        "the other papers on modalities",
    )

    def __init__(self, config: MEMEConfig) -> None:
        super().__init__(config)
        if len(config.modalities) != 2:
            raise ValueError(f"modalities are {config.modalities}, expected two")
        self.modalities = parts = Modalities(config)
        self.card, self.may_lack = parts.told_by(self.card), config.modalities
        self.guide = guides.Factored(z=guides.Mixture(*parts.experts))
        inputs = [PseudoInputs(parts, site, config.pseudo) for site in parts.names]
        self.pseudo: Iterable[PseudoInputs] = nn.ModuleList(inputs)  # type: ignore[assignment]

    def model(self, batch: Batch) -> None:
        """p(z) p(s | z) p(t | z)."""
        prior = pseudo_prior(
            self.pseudo, [modalities.has(batch, m) for m in self.modalities.names]
        )
        with self.plate(batch):
            z = pyro.sample("z", prior)  # K x B x L
            self.modalities.sample(batch, z)  # B x D_m

    def begin(self, batch: Batch) -> None:
        """Learnt rows begin at rows of the data."""
        for inputs in self.pseudo:
            inputs.begin(batch)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Both directions of rows that have both; the bound of rows that have one."""
        c = self.config
        return bound or inference.MutualSupervision(c.modalities, c.particles, c.classifier)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One, whose learnt rows begin at rows of the data."""
        return (inference.Stage(self.objective(bound), start=self.begin),)
