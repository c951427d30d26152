"""Vectors of which each cause shifts a few entries: masks that are known up to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models import Batch, Card, Config, Pair, inference, setting
from ppl_models.parts.sparse_shifts import ShiftGuide, SparseShifts, vectors


@dataclass(frozen=True)
class ShiftedConfig(Config):
    """Settings."""

    data_dim: int = setting(6, "L, entries of x", from_data="x", minimum=1)
    causes: int = setting(12, "A", from_data="cause", minimum=1)


class Shifted(Pair):
    """gamma_j ~ Bern(pi_aj), z_j ~ N(gamma_j mu_aj, 1), x ~ N(z, 0.3)."""

    Config = ShiftedConfig
    config: ShiftedConfig
    plate_nesting = 2
    card = Card(
        "shifted", "Shifts of a few entries", "-", 2026, "-", "test", {"x": "vector (L)"},
        {"pi": "targets (A, L)", "gamma": "what is shifted (L)", "z": "state (L)"},
        objectives=("enumerated",), covariates={"cause": "what was done (A)"},
    )  # fmt: skip

    def __init__(self, config: ShiftedConfig) -> None:
        super().__init__(config)
        L = config.data_dim
        self.shifts = SparseShifts(config.causes, L, "summed", 5.0)
        self.guide = ShiftGuide(self, nn.Linear(L, 2 * L), "cause")

    def model(self, batch: Batch) -> None:
        """pi, gamma, z and x."""
        cause, names = batch["cause"], self.class_names("cause")
        pi = self.shifts.sample_pi(point=False)
        with self.plate(batch):
            with pyro.plate("latent", self.config.data_dim, dim=-2):
                gamma = self.shifts.sample_masks(pi, cause, names)  # E x L x B
                z = pyro.sample("z", dist.Normal(self.shifts.means(gamma, cause), 1.0))
            x = dist.Normal(vectors(z), 0.3).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))

    def structure(self) -> Mapping[str, tuple[tuple[str, ...], Tensor]]:
        """Probability and size of each shift."""
        found = self.shifts.structure(self.class_names("cause"))
        return {name: (("cause", "latent"), v) for name, v in found.items()}

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound."""
        return bound or inference.EnumeratedELBO(kl="analytic")

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One, in which masks and shifts have rates of their own."""
        rates = self.shifts.rates(0.1, 0.05)
        how = inference.Training(epochs=100, batch_size=200, learning_rate=0.02)
        return (inference.Stage(self.objective(bound), training=how, rates=rates),)
