"""Zhao, Song and Ermon 2017: codes that enter a decoder at several depths."""

from __future__ import annotations

import itertools
import statistics

import matplotlib
import numpy as np
import pytest
from claims.ladders import STEPS, chains, fading, layers, traversed
from claims.measuring import needs_mnist, run_all, spread

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
SETTINGS = (
    "digits 8 x 8, 1,197 for training; dense, 128 units, 3 codes of 2, two hidden layers between "
    "levels and codes; weight 4, warm-up "
    f"1 - exp(-t / 500); {STEPS:,} steps of 100, Adam 1e-3; ten neighbours among training rows' "
    "means, on 400 test rows; seeds 0-2"
)
LONGER = 3  # times the steps, in second attempts
INK = 0.4  # bottom's R^2 of the ink above the top's
LABEL, LABEL_WITHOUT_INK = 0.25, 0.15  # top's accuracy above the bottom's


def columns(found, key: str) -> str:
    """Mean and deviation of each layer, bottom first."""
    return ", ".join(spread(layer) for layer in zip(*(run[key] for run in found), strict=True))


def minutes(found) -> float:
    return round(sum(run["seconds"] for run in found) / 60, 1)


def attempts(job, *given, steps: int):
    """Fits of the settings below; of three times the steps; and with batch norm for layer norm."""
    ways = {"": (steps,), f"after {LONGER * steps:,} steps": (LONGER * steps,)}
    ways["with the paper's batch norm"] = (steps, "batch")
    jobs = [(seed, *given, *way) for way in ways.values() for seed in SEEDS]
    found = run_all(job, jobs)
    return {way: found[len(SEEDS) * k :][: len(SEEDS)] for k, way in enumerate(ways)}


def told(record, claim: str, tried, holds, shown, why: str, **row) -> list[bool]:
    """A claim that holds in every seed, or is missed for a reason; and what else was tried."""
    held = {way: [holds(run) for run in runs] for way, runs in tried.items()}
    first = held.pop("")
    others = "; ".join(
        f"{way} in {sum(own)} of {len(own)}: {shown(tried[way])}" for way, own in held.items()
    )
    note = f"in {sum(first)} of {len(first)} seeds; {others}"
    record(
        f"vlae: {claim}",
        ours=shown(tried[""]),
        holds="yes" if all(first) else "no",
        note=note if all(first) else f"{note}; {why}",
        minutes=minutes(itertools.chain.from_iterable(tried.values())),
        **row,
    )
    return first


@pytest.fixture(scope="module")
def inked():
    return attempts(layers, True, (2, 2, 2), steps=STEPS)


@pytest.fixture(scope="module")
def plain():
    return attempts(layers, False, (2, 2, 2), steps=STEPS)


def ends(run, key: str) -> float:
    """The top layer's less the bottom's."""
    return run[key][-1] - run[key][0]


def test_the_bottom_tells_the_ink_and_the_top_the_digit(inked, record):
    """Check 1, with a random level of ink."""
    common = {"settings": SETTINGS + "; ink ~ U(0.4, 1)", "fixture": "inked"}
    told(
        record,
        f"1, the bottom code's R^2 of a random ink is {INK} above the top's",
        inked,
        lambda run: ends(run, "ink") <= -INK,
        lambda runs: (
            f"R^2 of bottom, middle, top {columns(runs, 'ink')}; KL {columns(runs, 'kl')}"
        ),
        "the ink may go to another layer, as all that are able to tell it may; layer norm takes "
        "it out of what a layer sees, so that it is learned slowly",
        paper="none in the paper; 0.78 and 0.07 in a run with other networks",
        baseline="the top's, in the same row",
        **common,
    )
    held = told(
        record,
        f"1, the top code's accuracy of the digit is {LABEL} above the bottom's, with ink",
        inked,
        lambda run: ends(run, "accuracy") >= LABEL,
        lambda runs: f"of bottom, middle, top {columns(runs, 'accuracy')}",
        "a bottom code of two numbers may hold a part of the shape",
        paper="none in the paper; 0.66 and 0.16 in a run with other networks",
        baseline="the bottom's, in the same row",
        **common,
    )
    assert all(held)


def test_every_layer_lives_where_the_likelihood_counts_more(plain, record):
    """Check 1, without ink."""
    lives = told(
        record,
        "1, without ink every code's KL is above 1 nat",
        plain,
        lambda run: min(run["kl"]) > 1,
        lambda runs: f"bottom, middle, top {columns(runs, 'kl')} nats",
        "which layer stays empty differs between seeds",
        paper="none in the paper; 2.1, 2.9, 3.8 nats in a run with other networks",
        baseline="1 nat",
        settings=SETTINGS,
        fixture="plain",
    )
    digits = told(
        record,
        f"1, without ink the top code's accuracy is {LABEL_WITHOUT_INK} above the bottom's",
        plain,
        lambda run: ends(run, "accuracy") >= LABEL_WITHOUT_INK,
        lambda runs: f"of bottom, middle, top {columns(runs, 'accuracy')}",
        "a bottom code of two numbers may hold a part of the shape",
        paper="none in the paper; 0.59 and 0.26 in a run with other networks",
        baseline="the bottom's, in the same row",
        settings=SETTINGS,
        fixture="plain",
    )
    assert all(lives) and all(digits)


def test_a_layer_changes_more_the_higher_it_is(plain, record):
    """Check 2."""
    told(
        record,
        "2, a layer drawn from its prior moves the mean image the more the higher it is",
        plain,
        lambda run: run["changes"] == sorted(run["changes"]),
        lambda runs: f"squared distance of images, bottom to top {columns(runs, 'changes')}",
        "with layer norm, which stands for the paper's batch norm here, bottom and middle carry "
        "about as much",
        paper="shown as pictures; 1.2, 3.0, 3.9 in a run with other networks",
        baseline="the other layers, in the same row",
        settings=SETTINGS + "; 20 draws a row, the other codes at their means",
        fixture="plain",
    )
    assert all(ends(run, "changes") > 0 for runs in plain.values() for run in runs)


def test_codes_that_all_enter_at_the_top_do_not_part(plain, record):
    """Check 3."""

    def apart(run) -> float:
        return float(np.ptp(run["splits"], axis=1).mean())

    flat = attempts(layers, False, (6,), steps=STEPS)
    ladder = [float(np.ptp(run["accuracy"])) for run in plain[""]]
    told(
        record,
        "3, six numbers that all enter at the top: pairs' accuracies differ by less than 0.15",
        flat,
        lambda run: apart(run) < 0.15,
        lambda runs: (
            "best less worst of three pairs, mean of all 15 ways "
            + spread([apart(run) for run in runs])
        ),
        "with layer norm single numbers of a flat code differ, too; two of three pairs differ on "
        "average by two thirds of best less worst",
        paper="none",
        baseline=f"the ladder's three layers {spread(ladder)}",
        settings=SETTINGS,
    )
    assert statistics.mean(ladder) > statistics.mean(map(apart, flat[""]))


def test_upper_layers_of_a_markov_chain_add_nothing(record):
    """Check 4."""
    found = attempts(chains, steps=STEPS // 2)
    told(
        record,
        "4, a Markov ladder: chains between image and z_1 end as chains through all codes do",
        found,
        lambda run: run["pixels"] < run["pixel_bound"] and run["p_value"] > 0.01,
        lambda runs: (
            "mean squared z-score of pixels' means "
            f"{spread([run['pixels'] for run in runs])}, p of the digits' counts "
            f"{', '.join(format(run['p_value'], '.2g') for run in runs)}"
        ),
        "the guide's z_1 is not the story's: drawing it anew given z_2 moves the law",
        paper="a proof, where the bound is tight",
        baseline="chance: 1 (99 % bound "
        f"{statistics.mean(run['pixel_bound'] for run in found['']):.2f}), p above 0.01",
        settings="ladder_vae without skips, two codes of 6, 128 units, digits drawn as black or "
        f"white in each step, {STEPS // 2:,} steps; 1,000 chains of 50 rounds from noise; digits "
        "told by ten neighbours",
    )


def test_a_layer_is_silent_before_its_turn(record):
    """Progressive learning: check 4 of Boxhead."""
    found = run_all(fading, [(seed,) for seed in SEEDS])
    silent = [max(run["kl"]) for run in found]
    holds = all(kl < 0.05 for kl in silent)
    record(
        "vlae: progressive learning, a layer's KL is below 0.05 nat when its turn comes",
        holds="yes" if holds else "no",
        paper="Chen et al. 2021, as their schedule is meant",
        ours=f"largest KL of z_2 at its turn and of z_1 at its {spread(silent, digits=3)} nats",
        baseline=f"the top code then {spread([run['top'] for run in found])} nats",
        settings=SETTINGS.replace(f"{STEPS:,}", "600")
        + "; fade_in 300, gamma 1, top weight 1 from the start, ink ~ U(0.4, 1)",
        minutes=minutes(found),
    )
    assert all(run["same"] for run in found) and holds


@needs_mnist
def test_a_picture_of_each_layer(picture):
    """Digits of MNIST as one layer moves over a square and the others stay."""
    from matplotlib import pyplot as plt

    ((images, _),) = run_all(traversed, [(0,)])
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4))
    names = ("bottom, z_1", "middle, z_2", "top, z_3")
    for ax, grid, name in zip(axes, images, names, strict=True):
        steps, side = len(grid), grid.shape[-1]
        ax.imshow(grid.transpose(0, 2, 1, 3).reshape(steps * side, steps * side), cmap="gray_r")
        ticks = [side // 2, steps * side // 2, steps * side - side // 2]
        ax.set_xticks(ticks, ["-2", "0", "2"])
        ax.set_yticks(ticks, ["2", "0", "-2"])
        ax.set_xlabel("first number")
        ax.set_ylabel("second number")
        ax.set_title(f"{name}; the other codes stay")
    picture(figure, "vlae")
    plt.close(figure)
