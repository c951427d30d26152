"""``ppl-models list`` and ``ppl-models show NAME``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from ppl_models.commands.flags import Parser
from ppl_models.commands.output import say, say_json


def list_papers(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """``ppl-models list``: it has no flags of its own."""

    def run(options: Namespace) -> int:
        from ppl_models import catalogue

        cards = {name: catalogue.get(name).card for name in catalogue.names()}
        if options.json:
            say_json({n: {"title": c.title, "task": c.task} for n, c in cards.items()})
        else:
            for name, card in cards.items():
                say(f"{name:8} {card.year}  {card.task}: {card.title}")
        return 0

    return run


def show(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models show`` and what it runs."""
    parser.add_argument(
        "name", metavar="NAME", help="paper, also of a metric, or path/to/file.py:Class"
    )

    def run(options: Namespace) -> int:
        from ppl_models.pages import metric_page
        from ppl_models.pages.describe import describe, page
        from ppl_models.pages.metric_papers import METRIC_PAPERS

        of_metric = options.name in METRIC_PAPERS
        if options.json:
            told = metric_page.describe if of_metric else describe
            say_json(told(options.name))
        else:
            say((metric_page.page if of_metric else page)(options.name, {}), end="")
        return 0

    return run
