"""Names for cells of which one in five has one: counts in an h5ad file, from several batches.

Story   y ~ Cat(p)   z ~ N(0, I)   x | y, z, batch ~ NB(library softmax(a_y + b_batch + W z))
Guide   q(y | x, batch) q(z | x, y, batch)
Paper   Xu et al. Molecular Systems Biology 2021; W z as in Svensson et al. Bioinformatics 2020
Shapes  E enumeration dimensions on the left, B rows, G genes, L states

    python examples/annotate_cells.py --data cells.h5ad --out annotated

y is the column ``cell_type`` of ``obs``. Without ``--data`` such a file is simulated, in which
what each cell is stands in a column that the fit does not see.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, data, guides, inference, register, setting
from ppl_models.networks import Label
from ppl_models.parts.counts import LogCounts, NegativeBinomial
from ppl_models.parts.label_prior import LabelPrior

TYPES = np.array(["B cell", "CD4 T cell", "CD8 T cell", "NK cell", "monocyte"])
BATCHES = np.array(["lab a", "lab b", "lab c"])
NUMBERS = {"cells": 2000, "genes": 60, "steps": 600, "draws": 200, "seed": 0}


@dataclass(frozen=True)
class Settings(Config):
    genes: int = setting(60, "G", from_data="x", minimum=1)
    types: int = setting(5, "classes of y", from_data="cell_type", minimum=2)
    batches: int = setting(3, "batches", from_data="batch", minimum=1)
    states: int = setting(2, "L, what cells of a type differ by", minimum=1)
    hidden: tuple[int, ...] = setting((64,), "units of the guide", minimum=1)


@register("annotate_cells")
class AnnotateCells(Pair):
    Config = Settings
    card = Card(
        name="annotate_cells", title="Names for cells", authors="you", year=2026,
        arxiv="10.15252/msb.20209620", task="annotation", data={"x": "counts of genes (G)"},
        latents={"cell_type": "what it is", "z": "state (L)"}, labels=("cell_type",),
        covariates={"batch": "who measured it", "library": "all counts of it (1)"},
        objectives=("enumerated",),
    )  # fmt: skip

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        G, C, L = config.genes, config.types, config.states
        kind, batch, H = Label(C), Label(config.batches), config.hidden
        self.prior = LabelPrior("learnt", {"cell_type": C})
        self.counts = NegativeBinomial({"cell_type": kind, "batch": batch, "z": L}, (), G)
        x = {"x": G, "batch": batch}
        xy = x | {"cell_type": kind}
        self.guide = guides.Factored(
            cell_type=guides.Categorical(C, x, net=LogCounts(x, H, C)),
            z=guides.Normal(L, xy, net=LogCounts(xy, H, 2 * L)),
        )

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.states)
        with self.plate(batch):
            y = pyro.sample("cell_type", self.prior("cell_type"), obs=batch.get("cell_type"))
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # B x L
            x = self.counts(batch["library"], cell_type=y, batch=batch["batch"], z=z)
            pyro.sample("x", x, obs=batch.get("x"))  # E x B x G

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        objective, nets = self.objective(bound), [f.net for f in self.guide.factors.values()]
        return (inference.Stage(objective, start=lambda rows: [n.count(rows) for n in nets]),)

    def some_covariates(self, rows: int) -> dict[str, torch.Tensor]:
        batch = torch.arange(rows) % self.config.batches
        return {"batch": batch, "library": self.like().new_full((rows, 1), 50)}


def simulate(cells: int, genes: int, seed: int) -> anndata.AnnData:
    """Cells of five types in three batches; the type of four in five is missing."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(TYPES), cells, p=[0.15, 0.3, 0.2, 0.1, 0.25])
    batch = rng.integers(0, len(BATCHES), cells)
    effects = rng.normal(0, 0.8, (len(TYPES), genes))
    effects[2] = effects[1] + rng.normal(0, 0.5, genes)  # the two kinds of T cells are alike
    logs = rng.normal(0, 1, genes) + effects[kind] + rng.normal(0, 0.4, (3, genes))[batch]
    logs += rng.normal(0, 1, (cells, 2)) @ rng.normal(0, 0.3, (2, genes))
    shares = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    library, theta = rng.lognormal(7.0, 0.4, (cells, 1)), rng.uniform(2, 10, genes)
    counts = rng.poisson(rng.gamma(theta, library * shares / theta)).astype(np.float32)
    told = np.where(rng.random(cells) < 0.2, TYPES[kind], None)
    obs = {"cell_type": told, "batch": BATCHES[batch], "simulated_type": TYPES[kind]}
    obs = pd.DataFrame(obs, index=[f"cell{n}" for n in range(cells)])
    return anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Fit, predict, check, report, and ask NUTS; returns the figures that are printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="h5ad file; simulated if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/annotate_cells"))
    for name, value in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    (asked := parser.parse_args(argv)).out.mkdir(parents=True, exist_ok=True)
    file = asked.data or asked.out / "cells.h5ad"
    if asked.data is None:
        simulate(asked.cells, asked.genes, asked.seed).write_h5ad(file)

    cells = data.load(file, labels="cell_type", covariates="batch", library="library")
    print(cells)
    pair = zoo.build("annotate_cells", cells)
    how = {"batch_size": 200, "learning_rate": 0.01, "schedule": "cosine(last=0.01)"}
    how |= {"steps": asked.steps, "seed": asked.seed, "overwrite": True}
    run = inference.fit(pair, cells, out=asked.out / "run", **how)
    found = {"test error": run.error(cells.test, "cell_type")}
    adata = anndata.read_h5ad(file)
    run.annotate(adata)
    adata.write_h5ad(asked.out / "annotated.h5ad")
    run.predict(file).to_csv(asked.out / "labels.csv")
    if "simulated_type" in adata.obs:
        wrong = adata.obs["cell_type_predicted"].astype(str) != adata.obs["simulated_type"]
        found["hidden error"] = wrong[adata.obs["cell_type"].isna()].mean()

    print(verdict := run.check())
    run.report(asked.out / "report.html")
    how = {"draws": asked.draws, "warmup": asked.draws, "seed": asked.seed}
    nuts = inference.against_nuts(pair, cells.test, range(5), **how)
    # Beyond four Monte Carlo errors a guide's mean may be a deviation off, which is half a nat.
    found["shift"] = float((abs(nuts["shift"]) - 4 * nuts["shift_error"]).max())
    found |= {"least width": float(nuts["ratio"].min()), "most width": float(nuts["ratio"].max())}
    found |= {"label distance": float(nuts["label_distance"].max()), "trusted": verdict.ok}
    for name, value in found.items():
        print(f"{name:>15} {value:.3f}")
    print(f"labels.csv, annotated.h5ad and report.html are in {asked.out}")
    return found


if __name__ == "__main__":
    pd.set_option("mode.string_storage", "python")  # or anndata 0.12 writes none of pandas 3
    anndata.settings.allow_write_nullable_strings = True
    main()
