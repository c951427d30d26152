"""Cells of patients: what do all cells of a patient share, and what would more cells be like?

Story   c ~ N(0, 1)   z_m | c ~ N(net(c))   x_m | c, z_m ~ N(net(c, z_m)), m a cell
Guide   q(c | attention over the cells) prod_m q(z_m | x_m, c)
Paper   Edwards, Storkey. Towards a neural statistician. ICLR 2017, arXiv 1606.02185
Shapes  B rows (patients), M cells, D genes
"""

from dataclasses import dataclass

import pyro
from torch import Tensor

from ppl_models import Batch, Card, Config, Pair, data, elements, inference, setting
from ppl_models.parts.set_contexts import ContextOf, NormalOf
from ppl_models.parts.set_draws import sample_sets


@dataclass(frozen=True)
class Settings(Config):
    data_dim: int = setting(20, "D", from_data="x", minimum=1)
    most: int = setting(10, "M", from_data="x_there", minimum=1)


class Patients(Pair):
    Config, plate_nesting, sample_sets = Settings, 2, sample_sets
    card = Card(
        "patients", "Cells of patients", "you", 2026, "1606.02185", "sets",
        {"x": "cells"}, {"c": "shared", "z": "own"}, covariates={"x_there": "which there are"},
    )  # fmt: skip

    def __init__(self, s: Settings) -> None:
        super().__init__(s)
        self.p_c, self.p_z = NormalOf({}, 32, 1), NormalOf({"c": 1}, 32, 2)
        D, self.p_x = s.data_dim, NormalOf({"c": 1, "z": 2}, 32, s.data_dim)
        self.q_c, self.q_z = ContextOf({"x": D}, 32, 1), NormalOf({"x": D, "c": 1}, 32, 2)

    def guide(self, batch: Batch) -> None:
        there = elements.present(batch, "x", self.config.most, batch.count)  # B x M
        x = elements.observed(batch, "x", there)  # M x B x D
        with batch.plate():
            c = pyro.sample("c", self.q_c(there, x=x))  # B x 1
            with elements.plate("cell", there):
                pyro.sample("z", self.q_z(there, x=x, c=c))  # M x B x 2

    def model(self, batch: Batch) -> None:
        there = elements.present(batch, "x", self.config.most, batch.count)
        with self.plate(batch):
            c = pyro.sample("c", self.p_c(there))  # B x 1
            with elements.plate("cell", there):
                z = pyro.sample("z", self.p_z(there, c=c))  # M x B x 2
                x = self.p_x(there, c=c, z=z)  # M x B x D
                pyro.sample("x", x, obs=elements.observed(batch, "x", there))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        return {"x_there": self.like().new_ones(rows, self.config.most)}

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        return (inference.Stage(bound or inference.ELBO(), prepare=data.drawn_sets("x", (2, 8))),)
