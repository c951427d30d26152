"""CMI: each attribute has a subspace, independent of the other's given its own attribute.

Story   z_1, z_2 flat   s_1 ~ Cat(head_1(z_1))   s_2 ~ Cat(head_2(z_2)); x is a covariate
Guide   z_1, z_2 = the halves of enc(x), points; missing s_k by the story's own head
Paper   Funke, Vicol, Wang, Kuemmerer, Zemel, Bethge. CoLLAs 2022, arXiv 2112.14754
Shapes  E enumeration dimensions on the left, B rows, D data, L subspace, C_k classes of s_k
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Net, Part
from ppl_models.pair import Card, Pair
from ppl_models.parts.subspaces import subspace_game


@dataclass(frozen=True)
class CMIConfig(Config):
    """Settings of the paper's two-digit MNIST."""

    data_dim: int = setting(392, "D, size of x", from_data="x", minimum=1)
    classes_1: int = setting(2, "C_1, classes of s_1", from_data="s_1", minimum=2)
    classes_2: int = setting(2, "C_2, classes of s_2", from_data="s_2", minimum=2)
    latent: int = setting(5, "L, size of each subspace", minimum=1)
    hidden: tuple[int, ...] = setting((50, 50), "units of encoder and critics", minimum=1)
    independence: str = setting(
        "given_label",
        "of the subspaces: given each label (CMI), without condition (MI), none (Base)",
        choices=("given_label", "marginal", "none"),
    )
    weight: float = setting(1.0, "w, of the penalty beside the mean cross-entropy", minimum=0)
    head_rate: float = setting(1e-4, "learning rate of the heads", minimum=0)
    critic_rate: float = setting(1e-4, "learning rate of the critics", minimum=0)


class CMI(Pair):
    """Two attributes that stay readable where their correlation changes."""

    Config = CMIConfig
    config: CMIConfig
    card = Card(
        name="cmi",
        title="Disentanglement and Generalization Under Correlation Shifts",
        authors="Christina M. Funke, Paul Vicol, Kuan-Chieh Wang, Matthias Kuemmerer, "
        "Richard Zemel, Matthias Bethge",
        year=2022,
        arxiv="2112.14754",
        task="attributes whose correlation changes",
        data={},
        latents={"z_1": "of s_1 (L)", "z_2": "of s_2 (L)", "s_1": "one", "s_2": "other attribute"},
        labels=("s_1", "s_2"),
        covariates={"x": "data vector (D)"},
        density="codes",
        objectives=("enumerated",),
        departs=(
            "heads learn in the encoder's step, at their own rate, and not in one after it",
            "rows that know one label and rows that know both have their own exchanges",
        ),
        limits=("two attributes", "the critics must be ahead: ten times the encoder's rate"),
        picture="accuracy over the test rows' correlation, by penalty, and rows of either sign",
    )

    def __init__(self, config: CMIConfig) -> None:
        super().__init__(config)
        L, classes = config.latent, (config.classes_1, config.classes_2)
        encoder = Net({"x": config.data_dim}, config.hidden, 2 * L, "relu")
        self.heads = nn.ModuleList(Net({f"z_{k}": L}, (), C) for k, C in enumerate(classes, 1))
        self.guide = guides.Factored(
            {"code": encoder},
            z_1=guides.Point(L, {"code": 2 * L}, net=Part(0, L)),
            z_2=guides.Point(L, {"code": 2 * L}, net=Part(L, L)),
            s_1=guides.Categorical(classes[0], {"z_1": L}, net=self.heads[0]),
            s_2=guides.Categorical(classes[1], {"z_2": L}, net=self.heads[1]),
        )

    def model(self, batch: Batch) -> None:
        """p(s_1 | z_1) p(s_2 | z_2)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            with poutine.mask(mask=False):  # no prior
                z_1 = pyro.sample("z_1", dist.Normal(zero, 1.0).to_event(1))  # B x L
                z_2 = pyro.sample("z_2", dist.Normal(zero, 1.0).to_event(1))  # B x L
            s_1, s_2 = self.heads[0](z_1=z_1), self.heads[1](z_2=z_2)  # B x C_k
            pyro.sample("s_1", dist.Categorical(logits=s_1), obs=batch.get("s_1"))  # E x B
            pyro.sample("s_2", dist.Categorical(logits=s_2), obs=batch.get("s_2"))  # E x B

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Waves of numbers."""
        size = self.config.data_dim
        waves = torch.arange(1.0, rows * size + 1).sin().abs().reshape(rows, size)
        return {"x": waves.to(self.like())}

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The log probability of the labels that are known, at the codes."""
        return bound or inference.EnumeratedELBO()

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The labels, and the penalty at 2 w: the bound adds up what the paper averages."""
        c, objective = self.config, self.objective(bound)
        players: tuple[inference.Player, ...] = ()
        if c.independence != "none":
            sizes = {"z_1": c.latent, "z_2": c.latent}
            labels = {"z_1": ("s_1", c.classes_1), "z_2": ("s_2", c.classes_2)}
            labels = labels if c.independence == "given_label" else {}
            rate, weight = {"learning_rate": c.critic_rate}, 2 * c.weight
            term, critic = subspace_game(sizes, labels, c.hidden, weight, self.like(), **rate)
            objective, players = objective + term, (critic,)
        training = inference.Training(epochs=400, batch_size=100, learning_rate=1e-5)
        rates = {"heads": c.head_rate}
        return (inference.Stage(objective, players=players, rates=rates, training=training),)
