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
# # When not to trust it: a collapsed fit, and its repair
#
# A fit can run to its end without an error, its loss can fall and settle, and its posterior can be
# worth nothing. This tutorial makes such a fit on purpose, reads what the verdict says of it line
# by line, repairs it, and reads the verdict again. Then it looks at single rows, which may be bad
# in a fit that is good.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import plots

plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True}

# %% [markdown]
# ## The fault
#
# A VAE weighs two things against each other: how well a code lets the picture be told (the
# reconstruction), and how far the code's posterior is from its prior (the KL divergence). Give the
# second too much weight, and the cheapest code is one that says nothing. People do so with good
# intentions, after papers in which a larger weight made codes easier to read; the right size for
# one data set is ruin for another.

# %%
digits = data.load("digits", train=800, validation=50, test=200, seed=0)
strict = zoo.build("vae", digits, hidden=(64,), latent=6)
collapsed = inference.fit(
    strict,
    digits,
    inference.ELBO(kl="analytic", beta=20),
    epochs=30,
    learning_rate=4e-3,
    progress=False,
)

# %%
figure, ax = plt.subplots(figsize=(7, 3))
ax.plot(collapsed.history["step"], collapsed.history["loss"])
ax.set(xlabel="step", ylabel="loss, nats per picture")
plt.show()

# %% [markdown]
# *The training loss. It fell and came to rest, and nothing about the curve looks wrong.*
#
# ## What the verdict says

# %%
verdict = collapsed.check(digits.test)
verdict

# %% [markdown]
# Most lines are content, and rightly so. What each of them asks:
#
# - **finite**: are all numbers numbers? A collapsed fit is as finite as any other.
# - **k-hat** and **iw_bound - elbo**: is the guide far from the posterior *of this model*? It is
#   not. Where the decoder ignores its code, the posterior of the code is the prior, and so is the
#   guide. The approximation is excellent; it is the model that has nothing to say.
# - **the guide's standard deviation**: as wide as the best one, for the same reason.
# - **planned steps** and **training loss**: was it broken off, is it still falling? Neither.
# - **numbers that tell rows apart**: does the mean of a code differ from row to row? This is the
#   line that sees the fault. A posterior that is the same for all rows is no posterior of a row.
# - **log p(x | codes) from draw to draw**: does it matter to the picture what the code is? Where
#   it does not, the decoder has learnt to do without.
#
# A verdict holds its findings as objects, so that a script can act on them: the name of a check,
# the variable, the figure, its limit and what to try.

# %%
pd.DataFrame(
    [(f.name, f.variable, f.figure, f.limit, f.advice) for f in verdict.failed],
    columns=["check", "variable", "figure", "limit", "to try"],
).style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## What collapse looks like
#
# Two figures make it plain. Each row of a data set should move the mean of the code; and each
# picture should come back when it is told from its code.

# %%
before = collapsed.posterior(digits.test)
figure, ax = plt.subplots(figsize=(8, 3.2))
plots.reconstructions(before, draws=1, ax=ax)
plt.show()

# %% [markdown]
# *Eight test pictures, and below each the mean of what the model tells from its code, and one
# draw. All means are one and the same picture: the average of the data.*
#
# ## The repair
#
# The fault is the weight, so it goes back to 1. That alone may not be enough: early in training a
# code that says nothing is cheap at any weight. The verdict names the two usual remedies, and
# neither changes what is made large in the end.
#
# - **Warm-up**: begin with no weight on the KL term and raise it to 1 over the first part of the
#   training, so that the decoder learns to use the code before the code has to pay. That is
#   `Anneal(0, 1, 0, 0.5)`: from 0 to 1, between the beginning and half of the steps.
# - **Free bits**: a floor under the KL term of each number of the code; below it, saying something
#   is free. `free_bits=inference.FreeBits(0.05)` asks nothing for the first twentieth of a nat.
#
# `fit` goes on from the weights that a pair has, and a collapsed pair is a bad place to start
# from: its decoder has learnt to do without. So the repair begins with a new `build`.

# %%
pair = zoo.build("vae", digits, hidden=(64,), latent=6)
bound = inference.ELBO(kl="analytic", beta=inference.Anneal(0, 1, 0, 0.5))
repaired = inference.fit(
    pair,
    digits,
    bound,
    epochs=60,
    learning_rate=4e-3,
    schedule="cosine(last=0.01)",
    progress=False,
)
print(repaired.objective)

# %%
repaired.check(digits.test)

# %% [markdown]
# The bound is now the one whose weight is 1, and the verdict is about the same model with other
# parameters. The next two figures are those from above, before and after.

# %%
after = repaired.posterior(digits.test)
figure, ax = plt.subplots(figsize=(8, 3.2))
plots.reconstructions(after, draws=1, ax=ax)
plt.show()

# %% [markdown]
# *The same eight pictures from the repaired fit. What is told now follows the picture above it.*

# %%
figure, ax = plt.subplots(figsize=(7, 3))
for place, (name, run) in enumerate({"collapsed": collapsed, "repaired": repaired}.items()):
    moved = run.codes(digits.test).mean.std()  # of each number of the code, over the rows
    ax.bar(np.arange(6) + 0.4 * place, np.sort(moved)[::-1], 0.4, label=name)
ax.set(xlabel="numbers of the code, by how much rows differ", xticks=[])
ax.set_ylabel("deviation of the means")
ax.legend()
plt.show()

# %% [markdown]
# *How far the mean of each number of the code moves between rows. In the collapsed fit none does.*
#
# The loss of the two fits cannot be compared, because they make different things small. What can
# be compared is the evidence of pictures that neither has seen, under one measure for both:

# %%
measure = inference.IWELBO(particles=20)
gain = repaired.bound_per_row(digits.test, measure) - collapsed.bound_per_row(digits.test, measure)
print(f"{gain.mean():.2f} nats more per held-out picture, +/- {gain.std() / len(gain) ** 0.5:.2f}")

# %% [markdown]
# ## Single rows
#
# A fit that is trusted as a whole may still miss something in some rows. `inference.bad_rows`
# names those whose k-hat is above its threshold, and `run.refine` gives such rows variational
# parameters of their own, which climb the row's bound from where the guide stands. The fit itself
# stays as it is.

# %%
bad = inference.bad_rows(pair, digits.test)
print(f"k-hat is above its threshold in {len(bad)} of {len(digits.test)} rows")

# %%
refined = repaired.refine(digits.test, bad, steps=150)
found = refined.diagnostics
found[["khat_before", "khat", "elbo_before", "elbo"]].to_dataframe().round(2).head()

# %%
figure, ax = plt.subplots(figsize=(7, 3))
places = np.arange(len(bad))
ax.vlines(places, found["khat_before"], found["khat"], color="lightgrey")
ax.plot(places, found["khat_before"], "o", label="guide")
ax.plot(places, found["khat"], "o", label="refined")
ax.set(xlabel="row", ylabel="k-hat", xticks=places)
ax.set_xticklabels(found["datum"].values, rotation=90)
ax.legend()
plt.show()

# %% [markdown]
# *k-hat of these rows, told from new draws: of the guide, and after each got parameters of its
# own.*
#
# Do not read too much into a single dot. k-hat is told from draws, and of a good guide one row in
# ten is above the threshold by chance; where the guide's dot is low this time, the row was one of
# these. The bound says what was gained. Where it moves by a few hundredths of a nat, the guide was
# as good as a Normal can be; where it moves by whole nats, the draws of the refined row are the
# ones to use, and `inference.replaced` puts them into the posterior of all rows.
#
# Not every row can be mended so: a posterior of two humps stays beyond a Normal, however it is
# fitted. For such rows there is `method="nuts"`, which is slow and needs no guide.
#
# ## Where to go on
#
# - [Can this fit be trusted?](../diagnostics.md) lists every check with its limit and its reason,
#   and counts how often planted faults were found and good fits suspected.
# - [Training](../training.md) has schedules, clipping, and what else keeps a fit from going wrong.
