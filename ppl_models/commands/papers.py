"""``ppl-models list`` and ``ppl-models show NAME``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from ppl_models.commands.flags import Parser, UsageError
from ppl_models.commands.output import say, say_json
from ppl_models.commands.terminal import Block, Columns, Heading, Points, Verbatim, put
from ppl_models.config import unknown
from ppl_models.pages import index


def list_papers(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models list`` and what it runs."""
    parser.add_argument("--family", help="papers of one family alone, such as multimodal")
    parser.add_argument(
        "--task", metavar="WORDS", help="papers whose task has these words, such as counterfactual"
    )

    def run(options: Namespace) -> int:
        papers = _asked(index.read()["papers"], options.family, options.task)
        if options.json:
            say_json(papers)
            return 0
        groups: dict[str, list[tuple[str, ...]]] = {}
        for name, paper in sorted(papers.items(), key=lambda entry: entry[1]["family"]):
            row = (name, str(paper["year"]), paper["task"], paper["title"])
            groups.setdefault(paper["family"], []).append(row)
        put(Columns(("name", "year", "task", "paper"), groups, cut=True))
        return 0

    return run


def _asked(papers: dict[str, Any], family: str | None, task: str | None) -> dict[str, Any]:
    families = {paper["family"] for paper in papers.values()}
    if family is not None and family not in families:
        raise UsageError(unknown("family", family, families))
    words = (task or "").lower()
    found = {
        name: paper
        for name, paper in papers.items()
        if family in (None, paper["family"]) and words in paper["task"].lower()
    }
    if not found:
        where = f"of the family {family} " if family else ""
        raise UsageError(
            f"no task {where}has the words {task!r}, expected words of a task in list"
        )
    return found


def show(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models show`` and what it runs."""
    parser.add_argument(
        "name", metavar="NAME", help="paper, also of a metric, or path/to/file.py:Class"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="the page of the docs, with plate diagrams"
    )

    def run(options: Namespace) -> int:
        from ppl_models.pages import describe, metric_page
        from ppl_models.pages.metric_papers import METRIC_PAPERS

        of_metric = options.name in METRIC_PAPERS
        if options.markdown and not options.json:
            say((metric_page if of_metric else describe).page(options.name, {}), end="")
            return 0
        told = (metric_page if of_metric else describe).describe(options.name)
        if options.json:
            say_json(told)
        else:
            put(*(_metric(told) if of_metric else _paper(told, options.name)))
        return 0

    return run


def _paper(told: dict[str, Any], name: str) -> list[Block]:
    from ppl_models.pages.describe import allowed, density_told, options_told, sites, value_told

    settings = [
        (s["name"], value_told(s["default"]), s["doc"], allowed(s).replace("`", ""))
        for s in told["config"]
    ]
    stages = {
        stage["name"] if len(told["stages"]) > 1 else "": (
            ("makes large", stage["formula"]),
            ("options", options_told(stage["training"])),
        )
        for stage in told["stages"]
    }
    return [
        *_head(told),
        Verbatim(told["story"]),
        Heading("Sites"),
        Columns(("site", "meaning", "kind"), {"": sites(told)}),
        *density_told(told["density"]),
        Heading("Settings"),
        Columns(("setting", "default", "meaning", "allowed"), {"": settings}),
        Heading("Training"),
        Columns(("", ""), stages),
        f"Tried with the bounds {', '.join(told['objectives'])}.",
        *_tail(told),
        f"All options: ppl-models fit {name} --help. Diagrams: ppl-models show {name} --markdown.",
    ]


def _metric(told: dict[str, Any]) -> list[Block]:
    return [
        *_head(told),
        f"In ppl_models.inference.metrics: {', '.join(told['functions'])}.",
        *_tail(told),
    ]


def _head(told: dict[str, Any]) -> list[Block]:
    from ppl_models.pages.tables import address

    return [
        Heading(told["name"]),
        told["about"],
        f"{told['authors']}. {told['title']}. {told['year']}. {address(told['arxiv'])}",
    ]


def _tail(told: dict[str, Any]) -> list[Block]:
    counts = index.read()["claims"].get(told["name"], {})
    measured = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    blocks: list[Block] = []
    if measured:
        blocks.append(f"Claims of the paper that were measured: {measured}.")
    for title, key in (("Limits", "limits"), ("Departures from the paper", "departs")):
        if told[key]:
            blocks += [Heading(title), Points(told[key])]
    return blocks
