# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cells: AnnData, a batch covariate and labels for the rest
#
# Two laboratories counted genes in single cells. A few cells have been given a type by hand. This
# tutorial takes the `AnnData` as it is, fits a negative binomial story in which the laboratory is
# a covariate, names the cells that have no name, and puts names and codes back into the same
# `AnnData`.

# %%
from dataclasses import dataclass

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, data, guides, inference, register, setting
from ppl_models.networks import Label
from ppl_models.parts.counts import LogCounts, NegativeBinomial

plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True}

# %% [markdown]
# ## The cells
#
# They are simulated, which keeps this page without a download and lets us look up the truth in the
# end. A cell has a type and a state of its own that runs through all types, as a cell cycle would.
# Each laboratory catches each gene a little differently, and each cell is caught to a depth of its
# own.

# %%
rng = np.random.default_rng(0)
CELLS, GENES, TYPES = 600, 40, ["B cell", "T cell", "monocyte"]
kind, lab = rng.integers(0, 3, CELLS), rng.integers(0, 2, CELLS)
state = rng.standard_normal(CELLS)
logs = rng.normal(0, 1, GENES) + rng.normal(0, 0.45, (3, GENES))[kind]
logs += rng.normal(0, 0.45, (2, GENES))[lab]  # as large as what makes a type
logs += state[:, None] * rng.normal(0, 0.4, GENES)
mean = rng.lognormal(6.0, 0.4, (CELLS, 1)) * np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
counts = rng.poisson(rng.gamma(5.0, mean / 5.0))

# %%
cells = anndata.AnnData(
    counts.astype("float32"),
    obs=pd.DataFrame(
        {
            "cell_type": np.where(rng.random(CELLS) < 0.3, np.array(TYPES)[kind], None),
            "lab": np.array(["north", "south"])[lab],
        },
        index=[f"cell{number}" for number in range(CELLS)],
    ),
    var=pd.DataFrame(index=[f"gene{number}" for number in range(GENES)]),
)
cells.obs.head()

# %% [markdown]
# What would a look at the counts say? Here are their first two principal components.


# %%
def plane(values: np.ndarray) -> np.ndarray:
    """The first two principal components of rows."""
    centred = values - values.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


def two_views(points: np.ndarray, name: str) -> None:
    """The same points coloured by type, and by laboratory."""
    axes = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True, sharey=True)[1]
    for ax, colours, names in ((axes[0], kind, TYPES), (axes[1], lab, ["north", "south"])):
        for number, label in enumerate(names):
            ax.scatter(*points[colours == number].T, s=6, label=label)
        ax.legend(fontsize="small", markerscale=2)
        ax.set(xlabel=f"first {name}")
    axes[0].set_ylabel(f"second {name}")


# %%
shares = counts / counts.sum(1, keepdims=True)
two_views(plane(np.log1p(1e4 * shares)), "principal component")
plt.show()

# %% [markdown]
# *All cells, by the logarithm of their genes' shares. At the left coloured by true type, at the
# right by laboratory: who measured a cell matters as much as what it is.*
#
# ## The story
#
# What conditions a story and is not explained by it is a **covariate**: the laboratory, and the
# library, all counts of a cell. Covariates are declared on the card and read with `batch["lab"]`;
# what is explained is read with `batch.get(...)`. The number of counts of each gene is negative
# binomial, with a mean that depends on type, state and laboratory, times the library.


# %%
@dataclass(frozen=True)
class Settings(Config):
    genes: int = setting(40, "G", from_data="x", minimum=1)
    types: int = setting(3, "C", from_data="cell_type", minimum=2)
    labs: int = setting(2, "laboratories", from_data="lab", minimum=1)
    states: int = setting(1, "L, what cells of a type differ by", minimum=1)
    hidden: tuple[int, ...] = setting((32,), "units of the guide", minimum=1)


@register("cells_of_labs")
class CellsOfLabs(Pair):
    Config = Settings
    card = Card(
        name="cells_of_labs",
        title="Cells of several laboratories",
        authors="you",
        year=2026,
        arxiv="10.1038/s41592-018-0229-2",  # scVI
        task="annotation",
        data={"x": "counts of genes (G)"},
        latents={"cell_type": "what the cell is", "z": "its state (L)"},
        labels=("cell_type",),
        covariates={"lab": "who measured the cell", "library": "all counts of the cell (1)"},
        objectives=("enumerated",),
    )

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        G, C, L, H = config.genes, config.types, config.states, config.hidden
        lab, kind = Label(config.labs), Label(C)
        self.counts = NegativeBinomial({"cell_type": kind, "lab": lab, "z": L}, (), G)
        seen, told = {"x": G, "lab": lab}, {"x": G, "lab": lab, "cell_type": kind}
        self.guide = guides.Factored(
            cell_type=guides.Categorical(C, seen, net=LogCounts(seen, H, C)),
            z=guides.Normal(L, told, net=LogCounts(told, H, 2 * L)),
        )

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.states)
        even = self.like().new_zeros(self.config.types)
        with self.plate(batch):
            y = pyro.sample("cell_type", dist.Categorical(logits=even), obs=batch.get("cell_type"))
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            x = self.counts(batch["library"], cell_type=y, lab=batch["lab"], z=z)
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        bound = bound or inference.EnumeratedELBO(kl="analytic")
        return bound + inference.Classification("cell_type")

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        library = self.like().new_full((rows, 1), 400.0)
        return {"lab": torch.arange(rows) % self.config.labs, "library": library}


# %% [markdown]
# ## The data, the fit, the check
#
# `from_anndata` says which columns of `obs` are labels and which are covariates; `library` makes a
# site of each cell's sum of counts. Cells without a type are all trained on. Three in ten of the
# others are kept to test on.

# %%
table = data.from_anndata(
    cells, labels="cell_type", covariates="lab", library="library", splits=(0.7, 0, 0.3)
)
table

# %%
pair = zoo.build("cells_of_labs", table)
run = inference.fit(
    pair,
    table,
    epochs=150,
    batch_size=200,
    learning_rate=0.02,
    schedule="cosine(last=0.01)",
    progress=False,
)
run.check()

# %% [markdown]
# ## Names and codes go back
#
# `annotate` asks the fit about all cells and writes what it says into the `AnnData` itself: the
# most probable type into `obs`, probabilities and codes into `obsm`. From there scanpy or any
# other tool goes on.

# %%
run.annotate(cells)
cells

# %%
cells.obs.head()

# %% [markdown]
# `run.predict` gives the same as a table, with a column for each class, and `run.codes` means and
# standard deviations of the codes.

# %%
run.predict(cells).head().round(3)

# %% [markdown]
# Since the cells were simulated, we can look up how many of those that had no name got the right
# one, and what a majority vote would have done.

# %%
unnamed = cells.obs["cell_type"].isna().to_numpy()
named = cells.obs["cell_type_predicted"].to_numpy()[unnamed]
truth = np.array(TYPES)[kind][unnamed]
common = pd.Series(truth).value_counts(normalize=True).iloc[0]
print(f"{(named == truth).mean():.1%} right; always naming the most common type: {common:.1%}")

# %% [markdown]
# Are the probabilities as good as the names? Where the fit says that it is less sure, it should be
# wrong more often.

# %%
sure = np.asarray(cells.obsm["cell_type_probs"])[unnamed].max(1)
figure, ax = plt.subplots(figsize=(6, 3))
bins = np.linspace(1 / 3, 1, 21)
ax.hist([sure[named == truth], sure[named != truth]], bins, stacked=True, label=["right", "wrong"])
ax.set(yscale="log", xlabel="probability of the type that is named", ylabel="cells")
ax.legend()
plt.show()

# %% [markdown]
# *The cells without a name, by the probability of the one they got. The scale is logarithmic, as
# most are sure.*
#
# ## What the code holds
#
# The code is what a cell is like beyond its type and its laboratory. It should therefore know the
# state that was simulated, and nothing of who measured the cell. Its sign is free: a code that
# runs the other way tells the same.

# %%
code = np.asarray(cells.obsm["X_z"])[:, 0]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
for ax, groups, names in ((left, kind, TYPES), (right, lab, ["north", "south"])):
    for number, name in enumerate(names):
        ax.scatter(state[groups == number], code[groups == number], s=6, label=name)
    ax.legend(fontsize="small", markerscale=2)
    ax.set(xlabel="true state")
left.set_ylabel("code (mean)")
plt.show()

# %% [markdown]
# *The state that a cell was made with, and the code that the fit gives it: coloured by type at the
# left, by laboratory at the right. Beside the principal components above, the colours mix.*
#
# ## Had the other laboratory measured it
#
# A covariate can be set, too. The type and state of a cell are inferred from its own counts and
# stay; the counts are told as the other laboratory would have had them.

# %%
(rows,) = table.test.batches()
north, south = (
    pair.intervene(rows, lab=name, codes="mean")["x"].mean(0) for name in ("north", "south")
)
measured = [counts[lab == number].mean(0) for number in (0, 1)]
figure, ax = plt.subplots(figsize=(5, 3.6))
ax.axhline(0, color="grey", linewidth=0.8)
ax.axline((0, 0), slope=1, color="grey", linestyle=":")
ax.scatter(np.log(measured[1] / measured[0]), (south / north).log(), s=14)
ax.set(xlabel="log ratio of the laboratories' means", ylabel="by intervention, same cells")
plt.show()

# %% [markdown]
# *A dot for each gene: how much more of it the south finds, in the data of different cells, and by
# the story for the same cells.*
#
# ## Where to go on
#
# - [Covariates](../covariates.md) tells what conditions what, and where their values come from.
# - [When not to trust it](when_not_to_trust.py) reads a verdict that failed.
