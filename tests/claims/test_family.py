"""Every pair of the family under every bound that it takes: ``docs/family.md``."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import pytest
from claims.measuring import run_all

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.objectives.by_name import parse_objective

pytestmark = pytest.mark.claims
PAGE = Path(__file__).parents[2] / "docs" / "family.md"
SEEDS = (0, 1, 2)
BOUNDS = ("", "enumerated", "iwelbo(particles=4)", "wake_sleep(particles=4)")
FIT = {"batch_size": 100, "learning_rate": 2e-3, "progress": False}
EPOCHS = {"digits": 60, "outliers": 40, "faces": 40, "spectra": 10}

DIGITS = "digits", {"labelled": 100}
SMALL = {"hidden": (64,), "latent": 8}
PAIRS = {
    "m2": ("m2", DIGITS, {**SMALL, "alpha": 1.0}, "y"),
    "partially_specified, label first": (
        "partially_specified", DIGITS, {**SMALL, "gamma": 5.0}, "y",
    ),
    "partially_specified, style first": (
        "partially_specified", DIGITS, {**SMALL, "gamma": 5.0, "guide": "style_first"}, "y",
    ),
    "ccvae": (
        "ccvae", DIGITS,
        {
            "labels": ("y",), "classes": (10,), "characteristic": (5,), "style": 5,
            "hidden": (64,), "alpha": 30.0,
        },
        "y",
    ),
    "mmdcgm": ("mmdcgm", DIGITS, SMALL, "y"),
    "mmdcgm, labels summed": ("mmdcgm", DIGITS, {**SMALL, "missing": "enumerate"}, "y"),
    "bayesian_ssl": ("bayesian_ssl", DIGITS, {**SMALL, "log_variance": -6.0}, "y"),
    "chroma_vae": (
        "chroma_vae", DIGITS, {"hidden": (64,), "rest": 8, "shortcut": 4, "label": 10.0}, "y",
    ),
    "clsvae": ("clsvae", ("outliers", {"train": 1000, "test": 300}), {"hidden": (64, 32)}, "y"),
    "faces": (
        "faces",
        ("faces", {"train": 1000, "test": 300, "labelled": {"identity": 40}}),
        {"gamma": 7.0}, "identity",
    ),
    "p3vae": ("p3vae", ("spectra", {}), {"hidden": (64,)}, "y"),
}  # fmt: skip


def outcome(row: str, bound: str, seed: int) -> dict[str, float | str]:
    """Held-out evidence and label error, or why there is none."""
    name, (source, options), settings, label = PAIRS[row]
    rows = data.load(source, **options, seed=seed)
    if name == "faces":  # the light is known where the face is
        seen = rows.train.observed["identity"]
        rows = dataclasses.replace(rows, train=rows.train.hide({"light": seen}))
    pair = zoo.build(name, rows, seed=seed, **settings)
    chosen = parse_objective(bound) if bound else None
    if bound:
        known = {m.name: m.reason for m in inference.methods(pair, rows)}
        if reason := known[bound.partition("(")[0]]:
            return {"reason": reason}
    run = inference.fit(
        pair, rows, stages=pair.stages(chosen), seed=seed, epochs=EPOCHS[source], **FIT
    )
    found: dict[str, float | str] = {"error": run.error(rows.test, label)}
    seen = rows.test.only(*pair.card.data)
    try:
        held = inference.held_out(pair, seen, range(100), method="iw", draws=1000)
    except ValueError as problem:
        return {**found, "no evidence": str(problem)}
    return {**found, "evidence": float(held["mean"])}


def test_swaps_across_the_family():
    jobs = [(row, bound, seed) for row in PAIRS for bound in BOUNDS for seed in SEEDS]
    found: dict[tuple[str, str], list[dict]] = {}
    for (row, bound, _), value in zip(jobs, run_all(outcome, jobs), strict=True):
        found.setdefault((row, bound), []).append(value)
    notes: list[str] = []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    def cell(runs: list[dict]) -> str:
        if "reason" in runs[0]:
            return note(runs[0]["reason"])
        error = statistics.mean(100 * run["error"] for run in runs)
        spread = statistics.stdev(100 * run["error"] for run in runs)
        if "evidence" not in runs[0]:
            return f"{error:.1f} ({spread:.1f}) % {note(runs[0]['no evidence'])}"
        evidence = [run["evidence"] for run in runs]
        nats = f"{statistics.mean(evidence):.1f} ({statistics.stdev(evidence):.1f})"
        return f"{error:.1f} ({spread:.1f}) %, {nats}"

    heads = ("pair", "its own objective", *(f"`{bound}`" for bound in BOUNDS[1:]))
    lines = [heads, ("---",) * len(heads)]
    for row in PAIRS:
        lines.append((row, *(cell(found[row, bound]) for bound in BOUNDS)))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    passes = ", ".join(f"{count} passes over {name}" for name, count in EPOCHS.items())
    PAGE.write_text(
        "# Bounds swapped across the family\n\n"
        "Test error of the label, and log evidence of held-out rows in nats (importance sampling "
        "from the guide, 1,000 draws, a lower bound where they do not suffice); mean and standard "
        f"deviation over seeds 0-2, small networks, nothing tuned on these data, {passes}. "
        "A bound takes the place of the paper's, whose other terms stay. Evidences compare "
        "bounds along a line; the pairs have other stories and data. Written by "
        "`pytest -m claims tests/claims/test_family.py`.\n\n"
        + table
        + "\n\n"
        + "\n".join(f"[{place}] {text}" for place, text in enumerate(notes, 1))
        + "\n"
    )
    # A guess errs at 9 in 10 of the digits: whatever a pair takes must teach it more.
    for (row, bound), runs in found.items():
        if PAIRS[row][1] == DIGITS and "error" in runs[0]:
            mean = statistics.mean(run["error"] for run in runs)
            assert mean < 0.5, f"{row} under {bound or 'its own objective'}: {mean:.2f}"
