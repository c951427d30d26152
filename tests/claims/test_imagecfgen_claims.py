"""Dash et al. 2022: counterfactual digits without a likelihood, and the bias of classifiers."""

from __future__ import annotations

import statistics
import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import needs_mnist, run_all, spread
from torch import nn
from torch.nn import functional

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render.morpho import measure

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS = (0, 1, 2)
# On seed 10, with 4,000 steps: with the critic at the networks' rate of 3e-4 z tells the causes by
# R2 of 0.7 and 0.8, and by more with a cosine; with the critic at 1e-3 by 0.07 and 0.16.
SMALL = {
    "latent": 16,
    "channels": (16, 32),
    "hidden": (128,),
    "critic": (128, 128),
    "critic_rate": 1e-3,
}
STEPS = (300, 4000, 800)
FIT = {
    "steps": STEPS,
    "learning_rate": (1e-2, 3e-4, 3e-4),
    "batch_size": (100, 64, 64),
    "compile": (False, True, False),
    "progress": False,
}
SETTINGS = (
    "maps of 16 and 32, z of 16 numbers, rates 3e-4 (critic 1e-3); 3,000 digits, 4,000 steps of "
    "64 rows for the game (of some 190,000 of the paper's), 800 for the encoder; 300 test rows; "
    "seeds 0-2"
)
# In the world's own pictures of seed 10 a classifier changes 32 % of its answers with brightness
# after one pass, 21, 18 and 14 % after 2, 3 and 5: the longer it learns, the more of the shape.
BRIGHT_SETTINGS = (
    "3,000 digits 3 and 8, of the classes' brightness 0.9; the same pair and steps; a small "
    "convolutional classifier, 1 pass, and 5 more with the weight 1; 500 balanced test rows, "
    "dark ones to 230 and bright ones to 90 grey levels; seeds 0-2"
)
# Why checks miss where they do, as far as is known.
PROBED = (
    "a game of minutes has not settled: the critic keeps causes out of z at some seeds, and its "
    "rate of 1e-3 was the second attempt (at 3e-4 R2 is 0.7 and 0.8); the encoder's own stage "
    "mends the rest"
)
LONGER = (
    "learning on, it learns the shape, and flips less without any help. After 5 passes and 5 more "
    "(the first attempt, seed 0), where accuracy is 95 % with and without, 1.2 % flip, and 8.2 %"
)
SLOW = "small maps and few steps: minutes in place of the quarter of an hour that it asks for"
THIN, THICK, DARK, BRIGHT = 1.5, 4.0, 90.0, 230.0


def fitted(rows, seed, options=None):
    """The pair after the game, and after its encoder's own stage; weights of both."""
    pair = zoo.build("imagecfgen", rows, seed=seed, **(options or SMALL))
    states = []
    first = {**FIT, **{k: v[:2] for k, v in FIT.items() if isinstance(v, tuple)}}
    last = {**FIT, **{k: v[2:] for k, v in FIT.items() if isinstance(v, tuple)}}
    stages = pair.stages()
    for plan, how in ((stages[:2], first), (stages[2:], last)):
        run = inference.fit(pair, rows, stages=plan, seed=seed, device="cpu", **how)
        states.append({n: v.clone() for n, v in run.pair.state_dict().items()})
    return run.pair, states


def had(pair, batch, **do):
    """Counterfactuals of the same draw of the noise; of nothing the reconstruction."""
    torch.manual_seed(0)
    return pair.counterfactual(batch, **(do or {"thickness": batch["thickness"]}))


def grey(images):
    return np.rint(255 * images.numpy().clip(0, 1)).astype(np.uint8).reshape(-1, 28, 28)


def brightness(images):
    """Median of the pixels above half of the brightest."""
    return np.array([np.median(image[image > image.max() / 2]) for image in grey(images)])


def probe(pair, rows):
    """R2 of thickness and intensity, held out, from the mean of z by ridge regression."""
    (batch,) = rows.batches()
    z = pair.guide.factor("z", batch).mean
    causes = torch.stack([batch["thickness"], batch["intensity"]], 1)
    causes = (causes - causes.mean(0)) / causes.std(0)
    half = len(z) // 2
    wide = torch.cat([z, torch.ones(len(z), 1)], 1)
    gram = wide[:half].T @ wide[:half] + 0.1 * torch.eye(wide.shape[1])
    told = wide[half:] @ torch.linalg.solve(gram, wide[:half].T @ causes[:half])
    left = (causes[half:] - told).square().mean(0) / causes[half:].var(0)
    return (1 - left).tolist()


@torch.no_grad()
def digits(seed: int) -> dict[str, object]:
    """What counterfactuals of Morpho-MNIST measure; checks 1 to 3 and 5."""
    rows = data.load("morpho_mnist", train=3000, validation=50, test=300, seed=seed)
    (batch,) = rows.test.batches()
    with torch.enable_grad():
        pair, (before, after) = fitted(rows, seed)
    found: dict[str, object] = {}
    generator = [n for n in after if n.startswith("generator.")]
    found["generator stays"] = all(torch.equal(before[n], after[n]) for n in generator)
    for name, state in (("before", before), ("after", after)):
        pair.load_state_dict(state)
        made = had(pair, batch)["x"]
        found[f"{name}, error"] = 255 * float((made - batch["x"]).abs().mean())
        found[f"{name}, probe"] = probe(pair, rows.test)
        found[f"{name}, deviation of z"] = float(pair.guide.factor("z", batch).mean.std())
    again = had(pair, batch)["x"]
    found["null"] = float((again - made).abs().max())
    found["measured, as it is"] = float(measure(grey(made)).mean())
    found["brightness, as it is"] = float(brightness(made).mean())
    noise = torch.logit((batch["intensity"] - 64) / 191) - 2 * (batch["thickness"] - 2.5)
    changed = {}
    for target in (THIN, THICK):
        changed[target] = had(pair, batch, thickness=target)
        found[f"measured {target}"] = float(measure(grey(changed[target]["x"])).mean())
        exact = 64 + 191 * torch.sigmoid(noise + 2 * (target - 2.5))
        for name, value in (("scm", changed[target]["intensity"]), ("edit", batch["intensity"])):
            found[f"{name} {target}"] = float((value - exact).abs().mean())
    for target in (DARK, BRIGHT):
        changed[target] = had(pair, batch, intensity=target)
        found[f"brightness {target:g}"] = float(brightness(changed[target]["x"]).mean())
        stays = torch.equal(changed[target]["thickness"], batch["thickness"])
        found["thickness stays"] = found.get("thickness stays", True) and stays
    if seed == 0:
        lines = [batch["x"], made, *(changed[v]["x"] for v in (THIN, THICK, DARK, BRIGHT))]
        found["images"] = torch.stack([line[:12] for line in lines]).numpy()
    return found


def network():
    """A small convolutional classifier of flat images."""
    maps = nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2), nn.ReLU(), nn.Flatten()
    dense = nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *maps, *dense)


def trained(classifier, x, y, epochs, made=None, changed=None, weight=0.0):
    """Passes of 50 rows on the cross-entropy, and on the difference of logits."""
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(50):
            loss = functional.binary_cross_entropy_with_logits(classifier(x[index]), y[index])
            if weight:
                pairs = made[index], changed[index]
                loss = loss + weight * inference.logit_difference(classifier, *pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return classifier


def other_brightness(batch):
    """What is bright had been dark, and the other way round."""
    return {"intensity": torch.where(batch["intensity"] > 159.5, DARK, BRIGHT)}


def redrawn(batch, do):
    """The rows themselves at another brightness: what the world says to the intervention."""
    return (batch["x"] * (do["intensity"] / batch["intensity"])[:, None]).clamp(0, 1)


@torch.no_grad()
def bright(seed: int) -> dict[str, object]:
    """A classifier that takes brightness for the class, before and after; checks 4 and 5."""
    rows = data.load("bright_digits", train=3000, validation=50, test=500, seed=seed)
    (batch,), x, y = rows.test.batches(), rows.train.sites["x"][:], rows.train.sites["y"][:]
    (train,) = rows.train.batches(limit=len(x))
    with torch.enable_grad():
        pair, (_, state) = fitted(rows, seed)
    pair.load_state_dict(state)
    made, changed = inference.counterfactual_images(pair, train, other_brightness(train))
    found: dict[str, object] = {"probe": probe(pair, rows.test)}
    images = inference.counterfactual_images(pair, batch, other_brightness(batch))
    found["brightness"] = [float(brightness(v[0]).mean()) for v in images]
    found["brightness asked"] = [
        float(v.mean()) for v in (batch["intensity"], other_brightness(batch)["intensity"])
    ]
    for name, epochs, weight in (("plain", 1, 0.0), ("longer", 6, 0.0), ("even", 1, 1.0)):
        torch.manual_seed(seed)
        classifier = network()
        with torch.enable_grad():
            trained(classifier, x, y.float(), epochs)
            if name == "even":
                trained(classifier, x, y.float(), 5, made[0], changed[0], weight)
        own = {}
        do = other_brightness(batch)
        told = inference.counterfactual_bias(classifier, pair, batch, do)
        own["flips"], own["change"] = told.flips, told.change
        for target in (DARK, BRIGHT):
            to = inference.counterfactual_bias(classifier, pair, batch, {"intensity": target})
            own[f"bias {target:g}"] = to.bias
        null = inference.counterfactual_bias(
            classifier, pair, batch, {"intensity": batch["intensity"]}
        )
        own["null"] = (null.flips, null.bias, null.change)
        own["thickness"] = inference.counterfactual_bias(
            classifier, pair, batch, {"thickness": THICK}
        ).flips
        own["thickness alone"] = inference.counterfactual_bias(
            classifier, pair, batch, {"thickness": THICK}, effect="direct"
        ).flips
        said = classifier(batch["x"]) > 0
        own["accuracy"] = float((said == (batch["y"] == 1)).float().mean())
        own["world's flips"] = float((said != (classifier(redrawn(batch, do)) > 0)).float().mean())
        found[name] = own
    return found


@pytest.fixture(scope="module")
def fits():
    """What was measured, by kind and seed, and the minutes that it took."""
    jobs = [("digits", seed) for seed in SEEDS] + [("bright", seed) for seed in SEEDS]
    found = run_all(measured, jobs)
    minutes = round(sum(run["minutes"] for run in found), 1)
    return {"digits": found[:3], "bright": found[3:]}, minutes


def measured(kind, seed):
    began = time.monotonic()
    found = {"digits": digits, "bright": bright}[kind](seed)
    return {**found, "minutes": (time.monotonic() - began) / 60}


def told(record, fits, claim, ours, holds, **row):
    """One row of the record."""
    record(
        f"imagecfgen: {claim}",
        ours=ours,
        holds="yes" if holds else "no",
        settings=row.pop("settings", SETTINGS),
        fixture="fits",
        minutes=fits[1],
        **row,
    )


def of(runs, *names):
    """A figure of each seed, by the names that lead to it."""
    values = []
    for run in runs:
        for name in names:
            run = run[name]
        values.append(run)
    return values


def test_the_encoder_is_mended_alone(fits, record):
    """Check 1, and whether z tells the causes."""
    runs = fits[0]["digits"]
    before, after = of(runs, "before, error"), of(runs, "after, error")
    fall = [1 - b / a for a, b in zip(before, after, strict=True)]
    holds = statistics.mean(fall) >= 0.15 and all(of(runs, "generator stays"))
    told(
        record, fits, "1, the encoder's own stage lowers the error of reconstruction by 15 % or "
        "more, and leaves the generator as it is, to the bit",
        f"by {spread(fall, 100, 1, '%')}, to {spread(after, digits=1)} grey levels", holds,
        baseline=f"before {spread(before, digits=1)}",
    )  # fmt: skip
    free: dict[str, bool] = {}
    probes = {
        (when, name): [run[f"{when}, probe"][place] for run in runs]
        for when in ("before", "after")
        for place, name in enumerate(("thickness", "intensity"))
    }
    for when, words in (("before", "after the game"), ("after", "in the pair as it is used")):
        own = {n: v for (w, n), v in probes.items() if w == when}
        free[when] = max(map(statistics.mean, own.values())) < 0.3
        told(
            record, fits, f"trap, z does not tell the causes, {words}: R2 of a linear probe below "
            "0.3",
            ", ".join(f"{n} {spread(v)}" for n, v in own.items()), free[when],
            note="" if free[when] else PROBED,
        )  # fmt: skip
    assert holds, fall
    assert all(free.values()), probes


def test_pictures_follow_the_thickness(fits, record):
    """Check 2, in its fast version."""
    runs = fits[0]["digits"]
    thin, thick = (of(runs, f"measured {v}") for v in (THIN, THICK))
    step = [b - a for a, b in zip(thin, thick, strict=True)]
    holds = statistics.mean(step) >= 0.5
    told(
        record, fits, "2, strokes of do(thickness = 4) are thicker than of do(1.5) by 0.5 "
        "pixels or more, measured in the picture",
        f"{spread(step)}: {spread(thin)} and {spread(thick)}", holds,
        baseline=f"as it is {spread(of(runs, 'measured, as it is'))}",
    )  # fmt: skip
    within = all(abs(statistics.mean(v) - t) <= 0.7 for v, t in ((thin, THIN), (thick, THICK)))
    slow = within and statistics.mean(step) >= 1.8
    told(
        record, fits, "2, after a longer run: the step is 1.8 pixels or more, and each "
        "within 0.7 of what was asked",
        f"{spread(step)}: {spread(thin)} and {spread(thick)}", slow, note="" if slow else SLOW,
    )  # fmt: skip
    assert holds, (thin, thick)
    assert slow, (thin, thick)


def test_causes_follow_their_model(fits, record):
    """Check 3."""
    runs = fits[0]["digits"]
    ours, edit = (
        [statistics.mean((run[f"{name} {THIN}"], run[f"{name} {THICK}"])) for run in runs]
        for name in ("scm", "edit")
    )
    holds = statistics.mean(ours) < 8 and statistics.mean(edit) > 30
    told(
        record, fits, "3, do(thickness) moves the intensity to what the world's equation says, "
        "to 8 grey levels; do(intensity) leaves the thickness as it is",
        f"{spread(ours, digits=1)} grey levels off", holds and all(of(runs, "thickness stays")),
        baseline=f"an edit of the thickness alone: {spread(edit, digits=1)}",
    )  # fmt: skip
    assert holds and all(of(runs, "thickness stays"))


def test_bias_is_measured_and_mitigated(fits, record):
    """Check 4."""
    runs = fits[0]["bright"]
    before, longer, after = (of(runs, k, "flips") for k in ("plain", "longer", "even"))
    right = [of(runs, k, "accuracy") for k in ("plain", "longer", "even")]
    world = [of(runs, k, "world's flips") for k in ("plain", "longer", "even")]
    rights = [statistics.mean(values) for values in right]
    biased = statistics.mean(before) >= 0.2
    fewer = {
        name: statistics.mean(after) <= 0.5 * statistics.mean(others) and rights[2] >= least - 0.01
        for name, others, least in (("before", before, rights[0]), ("longer", longer, rights[1]))
    }
    ours = f"flips {spread(after, 100, 1, '%')}, accuracy {spread(right[2], 100, 1, '%')}"
    told(
        record, fits, "4, a classifier of 3 and 8 that learnt brightness: 20 % or more of its "
        "answers flip with another intensity",
        spread(before, 100, 1, "%"), biased, settings=BRIGHT_SETTINGS,
        baseline=f"on the world's own pictures {spread(world[0], 100, 1, '%')}",
    )  # fmt: skip
    told(
        record, fits, "4, five passes with the difference of logits leave half of the flips or "
        "fewer, and balanced accuracy does not fall by more than a point",
        ours, fewer["before"], settings=BRIGHT_SETTINGS,
        baseline=f"before {spread(before, 100, 1, '%')}, {spread(right[0], 100, 1, '%')}; on the "
        f"world's own pictures {spread(world[2], 100, 1, '%')}",
    )  # fmt: skip
    told(
        record, fits, "4, and half or fewer of those that five passes without it leave, at a "
        "point of accuracy or less",
        ours, fewer["longer"], settings=BRIGHT_SETTINGS,
        baseline=f"without {spread(longer, 100, 1, '%')}, {spread(right[1], 100, 1, '%')}; on the "
        f"world's own pictures {spread(world[1], 100, 1, '%')}",
        note="" if fewer["longer"] else LONGER,
    )  # fmt: skip
    assert biased, before
    assert all(fewer.values()), (before, longer, after, right)


def test_nothing_set_changes_nothing(fits, record):
    """Check 5; a cause without an arrow into the image is in the tests of the bias."""
    exact = all(v == 0 for v in of(fits[0]["digits"], "null")) and all(
        v == (0, 0, 0)
        for kind in ("plain", "longer", "even")
        for v in of(fits[0]["bright"], kind, "null")
    )
    told(
        record, fits, "5, where nothing is set the picture is the reconstruction to the bit, and "
        "no answer changes",
        "0 difference, 0 flips", exact,
    )  # fmt: skip
    assert exact


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    images = fits[0]["digits"][0]["images"]
    names = ("row", "reconstruction", f"thickness {THIN:g}", f"thickness {THICK:g}",
             f"intensity {DARK:g}", f"intensity {BRIGHT:g}")  # fmt: skip
    figure, axes = plt.subplots(*images.shape[:2], figsize=(8.6, 4.3))
    for line, name, row in zip(axes, names, images, strict=True):
        for axis, image in zip(line, row, strict=True):
            axis.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    picture(figure, "imagecfgen")
    plt.close(figure)
