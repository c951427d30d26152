"""``ppl-models metrics DIR``: metrics of a run's codes."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models import data
from ppl_models.commands.flags import Parser, UsageError, positive
from ppl_models.commands.output import say, say_json
from ppl_models.commands.posterior import data_flags, run_and_data
from ppl_models.pages.posterior_file import METRICS

if TYPE_CHECKING:
    import xarray as xr

    from ppl_models.inference.metrics import CodeTable, Sampler
    from ppl_models.pair import Pair


def metrics(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models metrics`` and what it runs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument(
        "--cells",
        action="store_true",
        help="every combination of the factors once, in place of rows; of sets made from factors",
    )
    parser.add_argument(
        "--redrawn",
        action="store_true",
        help="draw noise, colours and backgrounds anew for each image of a vote; with --cells",
    )
    parser.add_argument("--metrics", metavar="NAME,NAME", help="which (default: the study's)")
    parser.add_argument("--factors", metavar="SITE,SITE", help="labels that are factors (all)")
    parser.add_argument("--sites", metavar="SITE,SITE", help="latent sites that are codes (all)")
    parser.add_argument("--sampled", action="store_true", help="draws of the guide, not its means")
    parser.add_argument(
        "--votes", type=positive, default=10_000, help="of BetaVAE and FactorVAE (default 10000)"
    )
    parser.add_argument("--bins", type=positive, default=20, help="of each code (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0)")
    parser.add_argument("--file", type=Path, help=f"file to write (default DIR/{METRICS})")
    loader = data_flags(parser, rest)

    def run(options: Namespace) -> int:
        from ppl_models.inference import metrics as measures
        from ppl_models.inference.posterior.export import save
        from ppl_models.inference.posterior.groups import as_inference_data

        asked = _names(options.metrics) or measures.STANDARD
        if options.redrawn and not options.cells:
            raise UsageError("--redrawn goes with --cells: rows have the nuisance that they have")
        fitted, dataset = run_and_data(options, loader)
        table, population = _codes(fitted.pair, dataset, options)
        scores = measures.evaluate(
            table,
            metrics=asked,
            population=population,
            votes=options.votes,
            bins=options.bins,
            seed=options.seed,
        )
        path = options.file or options.folder / METRICS
        save(as_inference_data({measures.GROUP: scores}, {}), path)
        _tell(scores, path, options.json)
        return 0

    return run


def _codes(
    pair: Pair, dataset: data.Dataset, options: Namespace
) -> tuple[CodeTable, Sampler | None]:
    from ppl_models.inference import metrics as measures

    how: dict[str, Any] = {
        "sites": _names(options.sites), "sampled": options.sampled, "seed": options.seed
    }  # fmt: skip
    if not options.cells:
        rows = getattr(dataset, options.split)
        return measures.encode(pair, rows, factors=_names(options.factors), **how), None
    if options.factors:
        raise UsageError("--factors goes without --cells, whose factors are those of the set")
    try:
        factors = data.factors_of(dataset.recipe)
    except ValueError as error:
        raise UsageError(f"--cells: {error}") from None
    sampler = measures.sampler_of(pair, factors, **how) if options.redrawn else None
    return measures.encode(pair, factors, **how), sampler


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _tell(scores: xr.Dataset, path: Path, as_json: bool) -> None:
    from ppl_models.inference.metrics.disentanglement.suite import numbers

    found = numbers(scores)
    if as_json:
        known = {name: value if math.isfinite(value) else None for name, value in found.items()}
        say_json({"metrics": str(path), **known})
        return
    for name, value in found.items():
        why = (
            "" if math.isfinite(value) else scores[name.partition(",")[0]].attrs.get("reason", "")
        )
        say(f"{name:44} {value:8.4f}  {why}".rstrip())
    if excluded := scores.attrs.get("excluded_factors"):
        say(f"left out, of one value: {excluded}")
    say(f"written to {path}")
