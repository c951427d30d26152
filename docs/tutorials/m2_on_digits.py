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
# # M2 on digits, from a hundred labels to ArviZ
#
# You have some twelve hundred pictures of handwritten digits, and somebody had the patience to
# label a hundred of them. This tutorial fits M2 (Kingma et al. 2014) to all of them, labelled or
# not. It then asks what a fit should always be asked: how often is it wrong, what does it believe,
# and can that be believed?
#
# M2 tells how a picture comes about. A class `y` and a style `z` are drawn, and a network paints
# the picture `x` from the two. The guide reads the story backwards: it tells the class from the
# picture, and the style from picture and class. Where a label is missing, it is summed over and
# never guessed.

# %%
import copy
import tempfile
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import plots

torch.manual_seed(0)  # of the draws that are made outside of training, in the last figures
plt.rcParams |= {"figure.dpi": 100, "figure.constrained_layout.use": True}

# %% [markdown]
# ## The data
#
# The digits are those of scikit-learn, eight by eight pixels, so nothing is downloaded.
# `labelled=100` hides all but ten labels of each class in the training rows; validation and test
# rows keep theirs, which are there to measure with.

# %%
digits = data.load("digits", labelled=100, seed=0)
digits

# %% [markdown]
# A table holds sites by name, one row for each picture. Where a label is hidden it is gone: no
# loss and no diagnostic can see it.

# %%
shown = digits.train.where_observed("y")
figure, axes = plt.subplots(1, 10, figsize=(8, 1.1))
for label, ax in enumerate(axes):
    row = int((shown.sites["y"] == label).nonzero()[0])
    ax.imshow(shown.sites["x"][row].reshape(8, 8), cmap="gray_r")
    ax.set_title(label, fontsize=9)
    ax.set_axis_off()
plt.show()

# %% [markdown]
# *One labelled picture of each class.*

# %% [markdown]
# ## The fit
#
# `build` sizes story and guide to the data, and `fit` trains them with the objective of the paper.
# `alpha` is the paper's weight of the classifier; with so few labels a larger one than its 0.1
# gets there in fewer passes. The learning rate falls along half a cosine wave, so that the
# training comes to rest.

# %%
pair = zoo.build("m2", digits, hidden=(128,), latent=10, alpha=1.0)
recipe = {"epochs": 50, "learning_rate": 4e-3, "schedule": "cosine(last=0.01)"}
run = inference.fit(pair, digits, **recipe, progress=False)

# %% [markdown]
# The curve of the loss comes with its parts. What is made small is minus the bound on the
# evidence, plus the classifier's loss on the labelled rows.

# %%
figure, ax = plt.subplots(figsize=(7, 3.2))
plots.training_curve(run, ax=ax)
plt.show()

# %% [markdown]
# *The loss in nats per picture against the steps, with its parts. The early fall may lie above the
# axes.*
#
# ## How often is it wrong?
#
# `run.error` compares the most probable class with the label that a test row has, but that the
# guide does not see. A figure like this needs another one beside it: a network that learns from
# the hundred labelled pictures alone. It is the label network of the same pair, trained with the
# classifier's term and without the story.

# %%
alone = inference.fit(
    zoo.build("m2", digits, hidden=(128,)),
    digits.train.where_observed("y"),
    inference.Classification("y"),
    epochs=50,
    learning_rate=2e-3,
    progress=False,
)
print(f"M2, all pictures and a hundred labels   {run.error(digits.test):.1%} wrong")
print(f"the network, the hundred alone          {alone.error(digits.test):.1%} wrong")

# %% [markdown]
# On pictures as small as these the hundred labels go a long way, and the two are not far apart. On
# larger pictures the unlabelled rows weigh more; [the page of M2](../papers/m2.md) has what was
# measured on MNIST.
#
# What it says of each row is asked for just as directly, as a table of pandas:

# %%
told = run.predict(digits.test)
told.head().round(2)

# %%
probabilities = told.filter(like="y_probs").to_numpy()
unsure = probabilities.max(1).argsort()[:8]  # the rows whose best class is least probable

# %%
figure, axes = plt.subplots(2, 8, figsize=(8, 2.6), height_ratios=(2, 1))
for row, picture, bars in zip(unsure.tolist(), *axes, strict=True):
    picture.imshow(digits.test.sites["x"][row].reshape(8, 8), cmap="gray_r")
    picture.set_title(f"is {int(digits.test.sites['y'][row])}", fontsize=9)
    picture.set_axis_off()
    bars.bar(range(10), probabilities[row])
    bars.set(ylim=(0, 1), yticks=[], xticks=(0, 5, 9))
plt.show()

# %% [markdown]
# *The eight test pictures that M2 is least sure of. Above each its true class; below it the
# probabilities of the classes 0 to 9. A row that could be two digits to you is often two bars to
# the model.*
#
# ## The posterior, as ArviZ knows it
#
# `run.posterior` draws codes and labels for every row and gives an `InferenceData`: whatever reads
# one can read this. The draws stand in `posterior`, the guide's own probabilities in
# `variational`, and figures that say how good the draws are in `diagnostics`.

# %%
idata = run.posterior(digits.test)
list(idata.groups())

# %%
first = {"datum": idata.posterior["datum"][:1]}
az.summary(idata, var_names=["z"], coords=first, kind="stats")

# %% [markdown]
# Each test picture has ten numbers of style. Their means and deviations in the guide come as
# tables, too, and no draw is needed:

# %%
style = run.codes(digits.test).mean
style.std().round(2)  # how far the mean of each number moves between pictures

# %% [markdown]
# Not all of them are in use: where the mean is near 0 and the standard deviation near 1, the
# posterior is the prior, and the number tells nothing of this picture.

# %%
some = idata.posterior["z"].sel(datum=idata.posterior["datum"][:2])
axes = az.plot_forest(some, combined=True, figsize=(7, 4.6), textsize=9)
axes[0].set_title("z of two test pictures: median, quartiles, 94 % interval", fontsize=10)
plt.show()

# %% [markdown]
# *Intervals that are as wide as the prior's, from about -1.9 to 1.9, belong to numbers that are
# not in use.*
#
# ## Can it be believed?
#
# An approximate posterior may be wrong in ways that no plot of it shows. `run.check` looks for
# them, a line for each: what was measured, and in brackets what it is held against. A line that
# failed says what to try.

# %%
run.check(digits.test)

# %% [markdown]
# One of these lines deserves a picture. The draws come from the guide and not from the posterior
# itself; each can be weighted by how much more probable it is under the story. *k-hat* measures
# how heavy the tail of a row's weights is: above the threshold, a few draws outweigh all the
# others, and the guide missed something in that row. The other picture is about the labels: are
# rows that are said to be right with 80 % right in 80 % of the cases?

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
plots.khat(idata, left)
plots.reliability(idata, ax=right)
plt.show()

# %% [markdown]
# *Left: k-hat of every test row, in increasing order; rows above the dashed line want refining.
# Right: the share of right labels against their probability; on the dotted line a model is as sure
# as it is right.*
#
# ## Another bound, in one line
#
# The pair says nothing of how it is to be trained, so the bound can be exchanged. Here the fitted
# pair is trained on with four importance-weighted draws per label; `fit` goes on from the weights
# that a pair has, and a copy of it keeps the first fit as it was.

# %%
other = copy.deepcopy(pair)
bound = inference.IWELBO(particles=4)
tighter = inference.fit(
    other, digits, other.objective(bound), epochs=4, learning_rate=5e-4, progress=False
)
print(tighter.objective)

# %% [markdown]
# Two fits are compared by what they say of pictures that neither has seen, by one and the same
# measure. Labels are taken out, so that it is the evidence of the pictures alone.

# %%
measure = inference.IWELBO(particles=10)
unlabelled = digits.test.without("y")
gain = tighter.bound_per_row(unlabelled, measure) - run.bound_per_row(unlabelled, measure)
error = gain.std() / len(gain) ** 0.5
print(f"held-out bound, second less first: {gain.mean():+.2f} nats per picture, +/- {error:.2f}")

# %% [markdown]
# The second fit has had more training as well as another bound, so not all of a gain is the
# bound's. Which bounds do what to which pairs, with equal training, is measured in [the family's
# page](../family.md).
#
# ## What if it had been a three?
#
# A story can be intervened in. `intervene` infers all sites of a row, sets the named ones, draws
# anew what depends on them in the story, and keeps the rest: here the style stays, and the class
# is set to each of the ten.

# %%
rows = next(digits.test.only("x").batches(limit=4))
changed = [pair.intervene(rows, y=y, codes="mean")["x"] for y in range(10)]
figure, axes = plt.subplots(4, 11, figsize=(8, 3.2))
for line, picture in enumerate(rows["x"]):
    for ax, image in zip(axes[line], [picture, *(x[line] for x in changed)], strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_axis_off()
for ax, title in zip(axes[0], ["row", *range(10)], strict=True):
    ax.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# *At the left four test pictures; beside each what it would have been in the classes 0 to 9, with
# the style that it has.*
#
# Lines differ less than columns. On pictures this small the class says most of what there is to
# say, and the style is a matter of shades, as the standard deviations above have it. On larger
# pictures the styles of a hand show: [the page of M2](../papers/m2.md) has the same picture of
# MNIST.
#
# ## Keep it, and show it
#
# A run is kept in a folder, from which `zoo.load` makes it again, and `report` writes all of the
# above as one page for a person. `ppl-models report` and `ppl-models predict` do so from a shell.

# %%
with tempfile.TemporaryDirectory() as folder:
    run.save(Path(folder) / "m2")
    again = zoo.load(Path(folder) / "m2")
print(again.predict(digits.test).equals(told))

# %% [markdown]
# ## Where to go on
#
# - [Your own pair](own_pair.py) writes a story of one's own, and checks its guide against NUTS.
# - [When not to trust it](when_not_to_trust.py) shows what the verdict says of a fit that went
#   wrong.
# - [Can this fit be trusted?](../diagnostics.md) tells every check, its limit and how often it is
#   right.
