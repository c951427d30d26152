"""The family on MNIST as the papers have it: 28 x 28 pixels, 50,000 images, 100 and 1,000 labels.

Passes and rates were fixed on validation rows of seed 10, whose labels are others than those of
the seeds that are measured. Every fit goes on from its last state after a stop.
"""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib
import pytest
from claims.measuring import needs_mnist, percent, run_all
from claims.mnist_fits import (
    AGAIN,
    FITS,
    HIDDEN,
    IMAGES,
    LATENT,
    M1_TOLD,
    STACK_TOLD,
    VARIANTS,
    WARMED,
    Found,
    Stack,
    alone,
    autoencoder,
    classified,
    fitted,
    stacked,
)

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS = (0, 1, 2)
PAPERS = (*FITS, "m1m2")
# Test errors of the papers in per cent by number of labels, with a standard deviation.
TOLD = {
    "m2": {100: (11.97, 1.71), 1000: (3.60, 0.56)},
    "m1m2": {100: (3.33, 0.14), 1000: (2.40, 0.02)},
    "partially_specified": {100: (9.71, 0.91), 1000: (2.88, 0.79)},
    "mmdcgm": {100: (1.24, 0.54)},
}
READ = (("partially_specified", 100),)  # in an index of the paper; others are recalled
REMARKS = {"mmdcgm": ", convolutions"}
MANY = ("m2", "m1m2", "partially_specified")  # with 1,000 labels, too
MISS = (  # M2 with 1,000 labels
    "passes, of which the paper has 3,000: the error falls until the end of 60, and a higher rate "
    "with 500 units and a smaller alpha is better in 40; a cosine at the same rate ends too early"
)


def told(paper: str, labels: int) -> str:
    """The paper's own number."""
    if labels not in TOLD.get(paper, {}):
        return ""
    mean, deviation = TOLD[paper][labels]
    star = "" if (paper, labels) in READ else "*"
    return f"{mean:.2f} ({deviation:.2f}){star}{REMARKS.get(paper, '')}"


def found_of(paper: str, labels: int, seeds: tuple[int, ...]) -> list[Found]:
    """Errors by pass of a paper's pair at each seed."""
    if paper != "m1m2":
        return run_all(fitted, [(paper, labels, seed) for seed in seeds])
    run_all(autoencoder, [(seed, Stack().code, Stack().warm_up) for seed in seeds])
    return run_all(stacked, [(Stack(), labels, seed) for seed in seeds])


def settings(paper: str) -> str:
    sizes = f"{IMAGES:,} images, {HIDDEN} units, z {LATENT}; "
    own = f"{M1_TOLD}{WARMED}; {STACK_TOLD}" if paper == "m1m2" else sizes + FITS[paper].told
    return f"{own}; compiled, one core a fit, {'the second stage ' if paper == 'm1m2' else ''}"


@pytest.mark.parametrize("paper", PAPERS)
def test_a_hundred_labels(paper, record, picture):
    supervised = run_all(alone, [(100, seed) for seed in SEEDS])
    found = found_of(paper, 100, SEEDS)
    if paper not in MANY:  # else it is drawn with that of 1,000 labels
        picture(drawn(paper, {100: found}), f"{paper}_by_pass")
    errors = [one["test"][-1] for one in found]
    claims = claims_on(paper, 100, errors, supervised)
    gibbs = [one["Gibbs"] for one in found if "Gibbs" in one]
    for claim, holds in claims.items():
        record(
            f"{paper}: MNIST 28 x 28, 100 labels, test error {claim}",
            paper=told(paper, 100),
            ours=percent(errors) + (f", Gibbs {percent(gibbs)}" if gibbs else ""),
            baseline=f"supervised only {percent(supervised)}{again(paper, 100)}",
            holds="yes" if holds else "no",
            settings=f"{settings(paper)}{minutes(found)} minutes; seeds 0-2",
            figure=f"{paper}_by_pass",
            shows=CAPTION,
        )
    assert claims["below supervised only"], errors


def claims_on(
    paper: str, labels: int, errors: list[float], supervised: list[float]
) -> dict[str, bool]:
    """What is claimed of the mean test error, and whether it holds."""
    mean = statistics.mean(errors)
    claims = {"below supervised only": mean < statistics.mean(supervised)}
    if paper == "m2":
        most = sum(TOLD[paper][labels]) / 100
        claims["at most a standard deviation above the paper's"] = mean <= most
    if paper == "m1m2":
        claims["at most 5 %"] = mean <= 0.05
    return claims


def again(paper: str, labels: int) -> str:
    """Other attempts at seed 0, each with its test error."""
    tried = [
        (name, fit.told)
        for name, (number, fit) in AGAIN.items()
        if name.split()[0] == paper and number == labels
    ]
    found = run_all(fitted, [(name, labels, 0) for name, _ in tried])
    return "".join(
        f"; {how} {100 * one['test'][-1]:.2f} % (seed 0)"
        for (_, how), one in zip(tried, found, strict=True)
    )


def minutes(found: list[Found]) -> str:
    least, most = (f(one["minutes"] for one in found) for f in (min, max))
    return f"{least:.0f}" if f"{least:.0f}" == f"{most:.0f}" else f"{least:.0f} to {most:.0f}"


@pytest.mark.parametrize("paper", MANY)
def test_a_thousand_labels(paper, record, picture):
    [supervised] = run_all(alone, [(1000, 0)])
    [found] = found_of(paper, 1000, SEEDS[:1])
    few = found_of(paper, 100, SEEDS)
    picture(drawn(paper, {100: few, 1000: [found]}), f"{paper}_by_pass")
    claims = claims_on(paper, 1000, found["test"][-1:], [supervised])
    for claim, holds in claims.items():
        record(
            f"{paper}: MNIST 28 x 28, 1,000 labels, test error {claim}",
            paper=told(paper, 1000),
            ours=f"{100 * found['test'][-1]:.2f} %",
            baseline=f"supervised only {100 * supervised:.1f} %{again(paper, 1000)}",
            holds="yes" if holds else "no",
            settings=f"{settings(paper)}{minutes([found])} minutes; seed 0",
            note=MISS if paper == "m2" and not holds else "",
        )
    assert claims["below supervised only"], found


CAPTION = (
    "test error over passes on 28 x 28 MNIST, a line per seed, and in grey of validation rows; "
    "dashed the paper's number, dotted the supervised network's"
)
COLOURS = {100: "tab:blue", 1000: "tab:orange"}


def drawn(paper: str, found: dict[int, list[Found]]) -> Any:
    """A figure of errors by pass, by number of labels."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    figure, ax = plt.subplots(figsize=(6, 3.6))
    for labels, runs in found.items():
        for one in runs:
            ax.plot(one["passes"], one["validation"], color="0.8", lw=1, zorder=1)
            ax.plot(one["passes"], one["test"], color=COLOURS[labels], lw=1.2)
        ax.plot([], [], color=COLOURS[labels], label=f"{labels:,} labels")
        supervised = statistics.mean(run_all(alone, [(labels, s) for s in SEEDS[: len(runs)]]))
        ax.axhline(supervised, color=COLOURS[labels], ls=":", lw=1)
        if told(paper, labels):
            ax.axhline(TOLD[paper][labels][0] / 100, color=COLOURS[labels], ls="--", lw=1)
    ax.set_yscale("log")
    ticks = [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("passes over 50,000 images")
    ax.set_ylabel("error")
    ax.legend(frameon=False)
    return figure


def test_m1_alone(record):
    """A perceptron on draws of M1's codes, 100 labels."""
    warm_ups = (0.0, Stack().warm_up)
    run_all(autoencoder, [(seed, Stack().code, share) for share in warm_ups for seed in SEEDS])
    errors, warmed = (
        run_all(classified, [(100, seed, share) for seed in SEEDS]) for share in warm_ups
    )
    supervised = run_all(alone, [(100, seed) for seed in SEEDS])
    holds = statistics.mean(errors) < statistics.mean(supervised)
    record(
        "m1: MNIST 28 x 28, 100 labels, test error below supervised only",
        paper="11.82* (TSVM)",
        ours=percent(errors),
        baseline=f"supervised only {percent(supervised)}; on the stack's M1, whose KL's weight "
        f"grows and which keeps more of its code, {percent(warmed)}",
        holds="yes" if holds else "no",
        settings=f"{M1_TOLD}; classifier 50-300-10 on draws, 1,000 steps of all labels; seeds 0-2",
    )
    assert holds


def test_what_parts_the_stack_from_the_paper(record):
    """One setting at a time towards the paper's, on validation rows of the seed."""
    firsts = {(seed, how.code, how.warm_up) for how, seed in VARIANTS.values()}
    run_all(autoencoder, sorted(firsts))
    found = run_all(stacked, [(how, 100, seed) for how, seed in VARIANTS.values()])
    ours, *others = (
        f"{name} {100 * one['validation'][-1]:.2f} % (seed {seed})"
        for (name, (_, seed)), one in zip(VARIANTS.items(), found, strict=True)
    )
    record(
        "m1m2: what parts M1+M2 from 3.33, validation error, 100 labels",
        paper="3.33 (0.14)*",
        ours=ours,
        baseline="; ".join(others),
        settings=f"{settings('m1m2')}{minutes(found)} minutes; one setting changed at a time",
    )
