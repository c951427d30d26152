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
# # Your own pair: a table, a story, and a check by NUTS
#
# You have a pandas table of coffee beans, three measurements of each, and an expert who named the
# variety of a few. You also have textbooks, which say roughly how large each variety is. This
# tutorial writes that down as a story, has its guide derived from the story, fits both, asks what
# the fit says, and then checks it against an algorithm that needs no guide at all.

# %%
from dataclasses import dataclass
from functools import partial

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal, init_to_mean
from torch import nn

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, data, guides, inference, register, setting

torch.manual_seed(0)
plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True}

# %% [markdown]
# ## The table
#
# The beans are simulated, so that the truth is known and answers can be compared with it. All that
# is measured grows with a bean's own size; beside that each measurement has noise of its own. The
# variety of four beans in five is missing.

# %%
rng = np.random.default_rng(0)
VARIETIES = ["arabica", "liberica", "robusta"]
MEASURED = ["length", "width", "thickness"]
TRUE_MEANS = np.array([[10.2, 6.8, 4.0], [12.6, 9.2, 5.6], [8.6, 8.0, 5.0]])  # millimetres
variety = rng.integers(0, 3, 340)
size = rng.standard_normal(340)
x = TRUE_MEANS[variety] + size[:, None] * [0.7, 0.5, 0.4] + rng.normal(0, 0.25, (340, 3))

# %%
beans = pd.DataFrame(x, columns=MEASURED)
beans["variety"] = pd.Categorical.from_codes(variety, VARIETIES)
beans["part"] = np.where(np.arange(340) < 240, "train", "test")
told = (beans["part"] == "test") | (rng.random(340) < 0.2)
beans["variety"] = beans["variety"].where(told)
beans.head()

# %% [markdown]
# One call makes a data set of the table: `variety` is a label, `part` says which rows are for
# training, and all other columns are numbers of the site `x`. Names of columns and classes come
# along.

# %%
table = data.from_frame(beans, "variety", splits="part")
table

# %%
figure, ax = plt.subplots(figsize=(6, 3.6))
ax.scatter(beans["length"], beans["width"], s=12, color="lightgrey", label="not told")
for name in VARIETIES:
    known = beans[(beans["variety"] == name) & (beans["part"] == "train")]
    ax.scatter(known["length"], known["width"], s=22, label=name)
ax.set(xlabel="length (mm)", ylabel="width (mm)")
ax.legend(title="variety")
plt.show()

# %% [markdown]
# *Length and width of all beans. Coloured are the training rows that have a name.*
#
# ## The story
#
# A pair is a class with a `Config` (its settings), a `card` (what its sites mean), a `model` and a
# `guide`.
#
# - Once for all beans: the mean of each variety, about which the textbooks say something.
# - For each bean: its `variety`, its `size`, and then what was measured.
#
# A site is observed where the batch has it, and latent where it has not:
# `obs=batch.get("variety")` serves beans with a name and beans without one by the same line.
# Settings with `from_data` take their value from the data set. What has no prior, the effect of
# size and the noise, is a parameter and is fitted as a point.
#
# The guide is not written but derived. `guides.inverse` runs the model once, reads off which site
# depends on which, and inverts these arrows: it finds that the size must be told from the
# measurements *and* the variety. `guides.Globals` gives what all beans share a Normal posterior,
# and `Mixed` puts the two together.

# %%
TEXTBOOK = torch.tensor([[10.0, 7.0, 4.0], [13.0, 9.0, 5.0], [9.0, 8.0, 5.0]])  # millimetres


@dataclass(frozen=True)
class Settings(Config):
    measured: int = setting(3, "D, measurements", from_data="x", minimum=1)
    varieties: int = setting(3, "C", from_data="variety", minimum=2)
    hidden: tuple[int, ...] = setting((32,), "units of the guide", minimum=1)


@register("beans")
class Beans(Pair):
    Config = Settings
    card = Card(
        name="beans",
        title="Varieties of coffee beans",
        authors="you",
        year=2026,
        task="classification with few labels",
        data={"x": "measurements (mm)"},
        latents={"means": "of a variety (mm)", "variety": "its name", "size": "of the bean"},
        labels=("variety",),
        objectives=("enumerated",),
    )

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.textbook = nn.Buffer(TEXTBOOK.clone())
        self.effect = nn.Parameter(torch.full((config.measured,), 0.5))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))
        rows = Batch({"x": TEXTBOOK}, observed={"x": 3, "variety": 1})  # a label in some rows
        self.guide = guides.Mixed(
            guides.Globals(self.model, rows, partial(AutoNormal, init_loc_fn=init_to_mean)),
            guides.inverse(self.model, rows, hidden=config.hidden),
        )

    def model(self, batch: Batch) -> None:
        zero = self.log_noise.new_zeros(1)
        means = pyro.sample("means", dist.Normal(self.textbook, 0.5).to_event(2))  # C x D
        with self.plate(batch):
            even = zero.new_zeros(self.config.varieties)
            y = pyro.sample("variety", dist.Categorical(logits=even), obs=batch.get("variety"))
            size = pyro.sample("size", dist.Normal(zero, 1.0).to_event(1))  # B x 1
            mean = means[y] + size * self.effect  # B x D, and a dimension of varieties
            noise = self.log_noise.exp()
            pyro.sample("x", dist.Normal(mean, noise).to_event(1), obs=batch.get("x"))


# %%
pair = zoo.build("beans", table)
dict(pair.guide.given)  # what each site of a bean is told from

# %% [markdown]
# Before a long run it is worth asking whether story and guide fit each other and the data: are all
# values in the support, is every density finite, does every parameter get a gradient?

# %%
checked = inference.debug(pair, table)

# %% [markdown]
# ## The fit, and what it says
#
# Labels that are missing are summed out exactly, which is what `EnumeratedELBO` does;
# `Classification` teaches the guide's label network by the names that are known. With 240 rows a
# step on all of them costs little.

# %%
objective = inference.EnumeratedELBO() + inference.Classification("variety")
run = inference.fit(
    pair,
    table,
    objective,
    steps=2_500,
    batch_size=240,
    learning_rate=0.02,
    schedule="cosine(last=0.01)",
    progress=False,
)
print(f"{run.error(table.test, 'variety'):.1%} of the test beans get a wrong name")

# %%
run.check(table.test)

# %% [markdown]
# What all beans share has a posterior of its own. It can be laid beside the prior that went in,
# and, since the beans are simulated, beside the truth.

# %%
means = run.global_posterior("means")
figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), sharey=True)
for place, (ax, name) in enumerate(zip(axes, MEASURED, strict=True)):
    middle, spread = means.mean[:, place].detach(), means.stddev[:, place].detach()
    ax.errorbar(
        TEXTBOOK[:, place], [0.2, 1.2, 2.2], xerr=1.0, fmt=".", color="C7", label="textbook"
    )
    ax.errorbar(middle, [0, 1, 2], xerr=2 * spread, fmt="o", color="C0", label="guide")
    ax.plot(TRUE_MEANS[:, place], [0, 1, 2], "x", color="C3", label="truth", zorder=3)
    ax.set(xlabel=f"mean {name} (mm)", yticks=[0.1, 1.1, 2.1], yticklabels=VARIETIES)
axes[0].legend(fontsize="small")
plt.show()

# %% [markdown]
# *Means of each variety, with bars of two standard deviations. Grey is what the textbooks said,
# blue what the fit says having seen the beans, and the crosses are what the beans were made with.*
#
# ## The same by NUTS
#
# The guide is an approximation, and it was trained by a noisy gradient. NUTS uses neither: it
# draws the means of the varieties and the sizes of all beans together from the story's own
# posterior, with varieties summed out. The effect of size and the noise stay as they were fitted.
# NUTS is slow, which is why there is a guide; but on one table of this size it can afford to be
# the judge.
#
# One thing is not the same. NUTS sees the measurements of the training beans alone, and no names.
# Here the names add little: the textbooks know well enough which variety is the large one.

# %%
chains = inference.nuts(
    pair, table.train, draws=150, warmup=150, max_tree_depth=6, init="guide", progress=False
)
az.summary(chains, var_names=["means"])

# %% [markdown]
# The nearer `r_hat` is to 1, the better the two chains agree with each other. With so few draws it
# stays above 1.01, which a paper would ask for; a serious check takes a thousand draws and some
# minutes. For a look beside the guide these will do.

# %%
drawn = chains.posterior["means"].stack(sample=("chain", "draw"))
figure, axes = plt.subplots(3, 3, figsize=(8, 5), sharey=True)
for kind, line in enumerate(axes):
    for place, ax in enumerate(line):
        values = drawn.values[kind, place]
        ax.hist(values, bins=25, density=True, color="C1", alpha=0.5, label="NUTS")
        q = dist.Normal(means.mean[kind, place].detach(), means.stddev[kind, place].detach())
        grid = torch.linspace(float(values.min()) - 0.1, float(values.max()) + 0.1, 100)
        ax.plot(grid, q.log_prob(grid).exp(), color="C0", label="guide")
        ax.set(yticks=[], xlabel=MEASURED[place] + " (mm)" if kind == 2 else "")
    line[0].set_ylabel(VARIETIES[kind])
axes[0, 0].legend(fontsize="small")
plt.show()

# %% [markdown]
# *The posterior of the mean of each variety and measurement: draws of NUTS as bars, the guide as a
# curve.*
#
# Where a curve is narrower than its bars, that is the price of a family that holds the means
# independent of each other: they are not, as a variety whose beans were all a little large is
# longer *and* wider. A guide of globals with `auto=AutoLowRankMultivariateNormal` may correlate
# them.
#
# The same question can be put to single beans. Here are those of which the guide is least sure.

# %%
rows = table.train.without("variety")
by_guide = run.label_probabilities(rows, "variety")
by_nuts = torch.tensor(chains.posterior["variety_probs"].mean(("chain", "draw")).values)
unsure = by_guide.max(-1).values.argsort()[:6]
pd.DataFrame(
    torch.cat([by_guide[unsure], by_nuts[unsure].to(by_guide)], 1).numpy(),
    index=pd.Index(unsure.numpy(), name="bean"),
    columns=pd.MultiIndex.from_product([["guide", "NUTS"], VARIETIES]),
).round(2)

# %% [markdown]
# And over all beans, in one figure:

# %%
sizes = run.posterior(table.train).posterior["size"].mean(("chain", "draw")).values[:, 0]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
left.plot([0, 1], [0, 1], color="grey", linestyle=":")
left.scatter(by_nuts.flatten(), by_guide.flatten(), s=8)
left.set(xlabel="p(variety | x) by NUTS", ylabel="by the guide")
right.plot([-3, 3], [-3, 3], color="grey", linestyle=":")
right.scatter(chains.posterior["size"].mean(("chain", "draw")).values[:, 0], sizes, s=8)
right.set(xlabel="mean size by NUTS", ylabel="by the guide")
plt.show()

# %% [markdown]
# *Left: the probability of each variety of each bean, by NUTS and by the guide. Right: the mean of
# each bean's size. On the dotted lines the two say the same.*
#
# A bean that stands at one half by NUTS is one that is either a large bean of one variety or a
# small one of another: the two sizes lie apart, and each chain has stayed with the one in which it
# began. There the guide, which weighs both, is the better judge. No algorithm is right by name.
#
# ## Where to go on
#
# - [Guides](../guides.md) lists the factors that a guide can be written with by hand.
# - [Own pairs in tests](../../CONTRIBUTING.md) shows `PairContract`, which checks a pair like this
#   one in a second.
# - [AnnData, batches and counts](cells.py) does the same for cells, with a covariate.
