"""The docs page of a paper that is a metric and no pair, read off its card and its functions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_models.config import plain
from ppl_models.inference import metrics
from ppl_models.pages import reproduction
from ppl_models.pages.metric_papers import METRIC_PAPERS
from ppl_models.pages.tables import address, picture, points, table


def describe(name: str) -> dict[str, Any]:
    """The card of a metric's paper, as values that JSON can hold.

    Args:
        name: A name of :data:`METRIC_PAPERS`.
    """
    found: dict[str, Any] = plain(dataclasses.asdict(METRIC_PAPERS[name]))
    return {"name": name, **found}


def page(name: str, records: reproduction.Records) -> str:
    """The docs page of a metric's paper, as Markdown.

    Args:
        name: A name of :data:`METRIC_PAPERS`.
        records: What was measured of all papers.
    """
    paper = METRIC_PAPERS[name]
    files = reproduction.claims_files(name, records)
    tests = ", ".join(f"[{file}](../../{file})" for file in files)
    parts = [
        f"# {name}",
        paper.about,
        f"{paper.authors}. *{paper.title}*. {paper.year}. [{paper.arxiv}]({address(paper.arxiv)})",
        f"Formulas, ranges, costs and what they do not measure: [{paper.family}]"
        f"(../metrics/{paper.family}.md).",
        *picture(name, paper.picture),
        "## Functions",
        "Of `ppl_models.inference.metrics`:",
        table(("Function", "What it gives"), _functions(paper.functions)),
        "## Limits",
        points(paper.limits),
        *reproduction.measured_here(name, records),
        "## Departures from the paper",
        points(paper.departs),
        f"Claims in {tests}." if tests else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index() -> str:
    """The rows of the papers' index, as Markdown."""
    rows = [
        (f"[{name}]({name}.md)", paper.task, f"{paper.title} ({paper.year})")
        for name, paper in METRIC_PAPERS.items()
    ]
    return table(("Name", "Measures", "Paper"), rows)


def _functions(names: Sequence[str]) -> list[tuple[str, str]]:
    rows = []
    for name in names:
        function = getattr(metrics, name)
        first = (inspect.getdoc(function) or "").split("\n\n")[0]
        rows.append((f"`{name}({_arguments(function)})`", " ".join(first.split())))
    return rows


def _arguments(function: object) -> str:
    """Names of the parameters, those with a default with it."""
    if not callable(function):
        return ""
    known: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    return ", ".join(
        name if p.default is p.empty else f"{name}={p.default!r}" for name, p in known.items()
    )
