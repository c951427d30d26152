"""Funke et al. 2022: readable attributes when their correlation changes sign."""

from __future__ import annotations

import contextlib
import statistics
import time
from unittest.mock import patch

import matplotlib
import pytest
import torch
from claims.measuring import needs_mnist, percent, run_all

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.objectives.code_terms import independent_codes

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS = (0, 1, 2)
EPOCHS, EPOCHS_MISSING, TRAINED_AT, MISSING = 20, 100, 0.9, 0.9
RATES = {"weight": 3.0, "head_rate": 3e-3, "critic_rate": 1e-3}
METHODS = {"CMI": "given_label", "MI": "marginal", "Base": "none", "whole batch": "given_label"}
SETTINGS = (
    "20,000 fixed pairs of MNIST's 3 and 8, 14 x 14 pixels each, occlusion 0.4, c = 0.9; 20 "
    "passes of 100 rows; w 3, rates 1e-4 (encoder; Base 3e-4), 3e-3 (heads), 1e-3 (critics); mean "
    "accuracy of both labels in 8,000 test pairs weighed to c, 0 and -c; seeds 0-2"
)
# Of check 3. Seeds 10 to 12 are 9.4, 13.0 and 10.0 points apart, and leave the specification's 6.
MARGIN = 0.06


def rows_of(seed: int, c: float, missing: float) -> data.Dataset:
    """Training rows at c, and test rows whose classes are independent."""
    kept = {"s_1": 1 - missing, "s_2": 1 - missing} if missing else None
    rows = data.load(
        "correlated_digits", correlation=c, test=8_000, test_correlation=0.0, labelled=kept,
        source="mnist", seed=seed,
    )  # fmt: skip
    return rows


def measured(method: str, seed: int, c: float = TRAINED_AT, missing: float = 0.0):
    """Accuracy of each label ``(2, 2, 2)`` by both classes, and the critics' last losses."""
    rows = rows_of(seed, c, missing)
    train = rows.train
    if missing:  # rows that know no label change nothing in any step
        known = train.observed["s_1"] | train.observed["s_2"]
        train = train.rows(known.nonzero().flatten())
    pair = zoo.build("cmi", rows, seed=seed, independence=METHODS[method], **RATES)
    # Rows by kind: 100 of each step know s_1 on average, and 100 know s_2.
    batch = round(100 * len(train) / (len(rows.train) * (1 - missing)))
    over_all = contextlib.nullcontext()
    if method == "whole batch":
        over_all = patch.object(
            independent_codes, "order_within", lambda groups, noise: noise.argsort()
        )
    began = time.monotonic()
    with over_all:
        run = inference.fit(
            pair, train, seed=seed, progress=False, compile=True,
            epochs=EPOCHS_MISSING if missing else EPOCHS, batch_size=batch,
            learning_rate=3e-4 if method == "Base" else 1e-4,
        )  # fmt: skip
    found = {
        "critics": {n: float(v[-1]) for n, v in run.history.items() if "logistic" in n},
        "seconds": time.monotonic() - began,
        "steps": run.planned,
    }
    (test,) = rows.test.batches()
    with torch.no_grad():
        given = test.only("x")
        right = [
            pair.guide.scores(s, pair.guide.upstream(s, given)).argmax(-1) == test[s]
            for s in ("s_1", "s_2")
        ]
    cells = [[(test["s_1"] == a) & (test["s_2"] == b) for b in (0, 1)] for a in (0, 1)]
    found["accuracy"] = [
        [[float(hit[cell].double().mean()) for cell in line] for line in cells] for hit in right
    ]
    if method == "CMI" and seed == 0 and not missing:
        found["images"] = {
            "same": test["x"][cells[0][0] | cells[1][1]][:5].numpy(),
            "other": test["x"][cells[0][1] | cells[1][0]][:5].numpy(),
        }
    return found


def accuracy(found, c: float) -> float:
    """Mean accuracy of both labels where the test rows have the correlation c."""
    total = 0.0
    for of_label in found["accuracy"]:
        for a in (0, 1):
            for b in (0, 1):
                total += (1 + c if a == b else 1 - c) / 4 * of_label[a][b] / 2
    return total


def toy(c: float, n: float, m: torch.Tensor) -> torch.Tensor:
    """Covariance of (s_1, s_2, z_1, z_2) in the paper's linear Gaussian: z = M (s + noise)."""
    s = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)
    x = s + n * torch.eye(2, dtype=torch.float64)
    return torch.cat((torch.cat((s, s @ m.T), 1), torch.cat((m @ s, m @ x @ m.T), 1)))


def explained(c: float, n: float, m: torch.Tensor) -> torch.Tensor:
    """Share of the variance of s that M (s + noise) explains where s has the correlation c."""
    covariance = toy(c, n, m)
    error = covariance[:2, :2] - 2 * covariance[:2, 2:] + covariance[2:, 2:]
    return 1 - error.trace() / 2


def optimum(kind: str, c: float, n: float, weight: float = 100.0, steps: int = 1500):
    """W and R by Adam from the Base optimum, with a penalty; their product."""
    s = toy(c, n, torch.eye(2, dtype=torch.float64))[:2, :2]
    w = (s @ torch.linalg.inv(s + n * torch.eye(2, dtype=torch.float64))).requires_grad_()
    r = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([w, r], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    given = {"CMI": ([0], [1]), "MI": ([],), "Base": ()}[kind]
    for _ in range(steps):
        optimiser.zero_grad()
        m = r.unsqueeze(-1) * w
        covariance = toy(c, n, w)
        penalty = sum(inference.gaussian_information(covariance, [2], [3], g) for g in given)
        (weight * penalty - explained(c, n, m)).backward()
        optimiser.step()
        schedule.step()
    return [float(explained(t, n, m.detach())) for t in (c, 0.0, -c)]


def test_the_linear_toy_from_the_base_optimum(record):
    """Check 1."""
    paper = {
        "Base": (91.93, 87.60, 83.26),
        "CMI": (90.91, 90.91, 90.91),
        "MI": (69.81, 64.97, 60.13),
    }
    found = {kind: [100 * v for v in optimum(kind, 0.8, 0.1)] for kind in paper}
    off = {k: max(abs(a - b) for a, b in zip(found[k], paper[k], strict=True)) for k in paper}
    holds = off["CMI"] <= 0.5 and off["MI"] <= 1 and off["Base"] <= 0.01
    told = {kind: " / ".join(f"{v:.2f}" for v in row) for kind, row in found.items()}
    record(
        "cmi: 1, linear Gaussians, variance explained at c, 0, -c within 0.5 points of W = I",
        paper="90.91 at each; MI 69.81 / 64.97 / 60.13; Base 91.93 / 87.60 / 83.26",
        ours=told["CMI"],
        baseline=f"MI {told['MI']}; Base {told['Base']}",
        holds="yes" if holds else "no",
        settings="c = 0.8, n = 0.1; 1,500 steps of Adam for W and R from the Base optimum, "
        "weight 100, the closed form of the information as penalty",
    )
    assert holds, (found, off)


def trained(kinds):
    """What was measured, by kind, in the order of the seeds, and the minutes of the fits."""
    asked = [(kind, seed) for seed in SEEDS for kind in kinds]
    jobs = [(kinds[kind][0], seed, *kinds[kind][1:]) for kind, seed in asked]
    found = dict(zip(asked, run_all(measured, jobs), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    return {kind: [found[kind, seed] for seed in SEEDS] for kind in kinds}, minutes


@pytest.fixture(scope="module")
def fits():
    """With all labels."""
    kinds = {method: (method, TRAINED_AT, 0.0) for method in METHODS}
    return trained({**kinds, "Base at c = 0": ("Base", 0.0, 0.0)})


@pytest.fixture(scope="module")
def few():
    """With a tenth of each label."""
    return trained({method: (method, TRAINED_AT, MISSING) for method in ("CMI", "Base")})


def at(runs, c: float) -> list[float]:
    return [accuracy(run, c) for run in runs]


def curve(runs) -> str:
    """Accuracies at c, 0 and -c."""
    return " / ".join(percent(at(runs, c)) for c in (TRAINED_AT, 0.0, -TRAINED_AT))


def spans(runs) -> float:
    """How far the accuracy goes apart between the three correlations, on average."""
    means = [statistics.mean(at(runs, c)) for c in (TRAINED_AT, 0.0, -TRAINED_AT)]
    return max(means) - min(means)


def test_accuracy_where_the_correlation_changes_sign(fits, record):
    """Checks 2 and 4."""
    columns, minutes = fits
    low = {kind: statistics.mean(at(runs, -TRAINED_AT)) for kind, runs in columns.items()}
    even = {kind: statistics.mean(at(runs, 0.0)) for kind, runs in columns.items()}
    ours = columns["CMI"]
    claims = {
        "at -c CMI is at least 12 points above Base": (low["CMI"] >= low["Base"] + 0.12, "Base"),
        "at -c CMI is at least 12 points above MI": (low["CMI"] >= low["MI"] + 0.12, "MI"),
        "CMI's accuracies at c, 0, -c within 8 points, Base's over 20": (
            spans(ours) <= 0.08 and spans(columns["Base"]) >= 0.20,
            "Base",
        ),
        "at 0 CMI is within 4 points of Base trained at 0": (
            even["CMI"] >= even["Base at c = 0"] - 0.04,
            "Base at c = 0",
        ),
    }
    for claim, (holds, against) in claims.items():
        record(
            f"cmi: 2, {claim}",
            paper="curves without numbers: CMI is flat, Base falls, MI is below both",
            ours=curve(ours),
            baseline=f"{against} {curve(columns[against])}",
            holds="yes" if holds else "no",
            settings=SETTINGS,
            fixture="fits",
            minutes=minutes,
        )
    whole = columns["whole batch"]
    fails = low["whole batch"] < low["Base"] + 0.12 or spans(whole) > 0.08
    record(
        "cmi: 4, exchanged among the whole batch and not within a label, check 2 fails",
        ours=curve(ours),
        baseline=f"whole batch {curve(whole)}",
        holds="yes" if fails else "no",
        note="the critic sees the label, of which the code then knows nothing",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert fails and all(holds for holds, _ in claims.values()), (low, even)


def test_labels_that_are_missing(few, record):
    """Check 3."""
    columns, minutes = few
    ours, base = columns["CMI"], columns["Base"]
    low = [statistics.mean(at(runs, -TRAINED_AT)) for runs in (ours, base)]
    holds = low[0] >= low[1] + MARGIN
    record(
        f"cmi: 3, 90 % of each label missing, at -c CMI is {100 * MARGIN:g} points above Base",
        ours=curve(ours),
        baseline=f"Base {curve(base)}",
        holds="yes" if holds else "no",
        note="at seeds 10 to 12, which fixed the margin: 9.4, 13.0 and 10.0 points",
        settings=f"{SETTINGS}; rows that know no label left out; 100 passes, of each step about "
        "100 rows know s_1 and 100 s_2",
        fixture="few",
        minutes=minutes,
    )
    assert holds, low


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    columns, _ = fits
    grid = [k / 10 for k in range(-10, 11)]
    figure, (axis, *sides) = plt.subplots(
        1, 3, figsize=(9, 3.2), width_ratios=(2.4, 1, 1), layout="constrained"
    )
    for kind, colour in (("CMI", "tab:blue"), ("Base", "tab:red"), ("MI", "tab:green")):
        runs = [at(columns[kind], c) for c in grid]
        mean = [100 * statistics.mean(values) for values in runs]
        axis.plot(grid, mean, color=colour, label=kind)
        axis.fill_between(
            grid, [100 * min(v) for v in runs], [100 * max(v) for v in runs],
            color=colour, alpha=0.2, linewidth=0,
        )  # fmt: skip
    axis.axvline(TRAINED_AT, color="grey", linestyle=":", linewidth=1)
    axis.set(xlabel="correlation of the test rows (trained at 0.9)", ylabel="accuracy, %")
    axis.legend(frameon=False)
    images = columns["CMI"][0]["images"]
    for side, key, title in zip(
        sides, ("same", "other"), ("as in training", "rare in training"), strict=True
    ):
        side.imshow(images[key].reshape(-1, 28), cmap="gray", vmin=0, vmax=1)
        side.set(xticks=[], yticks=[], title=title)
        for line in range(1, len(images[key])):
            side.axhline(14 * line - 0.5, color="white", linewidth=1)
    picture(figure, "cmi")
    plt.close(figure)
