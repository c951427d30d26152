"""``ppl-models export DIR`` and ``ppl-models check DIR``."""

from __future__ import annotations

import argparse
import inspect
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models import data, inference
from ppl_models.commands.flags import Parser, UsageError, add_loader, chosen, positive, taking
from ppl_models.commands.output import say, say_json, shown, tell
from ppl_models.pages.posterior_file import POSTERIOR, posterior_of, reading

if TYPE_CHECKING:
    from ppl_models.data import Dataset, Table
    from ppl_models.inference import Run

CHAINS = ("nuts", "hmc")
KINDS = ("uniform", "guide", "prior")  # of inference.nuts(init=...), which takes values besides


def export(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models export`` and what it runs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument("--file", type=Path, help=f"file to write (default DIR/{POSTERIOR})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--method",
        choices=("guide", *CHAINS),
        default="guide",
        help="draws from the guide, or chains with labels summed out (--draws of warm-up first)",
    )
    chains = parser.add_argument_group("options of --method nuts and hmc")
    suppressed: Any = argparse.SUPPRESS
    chains.add_argument("--chains", type=positive, default=suppressed, help="chains (default 2)")
    chains.add_argument(
        "--target-accept",
        type=float,
        default=suppressed,
        metavar="SHARE",
        help="mean acceptance rate that the step size is adapted to (default 0.8)",
    )
    chains.add_argument(
        "--max-tree-depth",
        type=positive,
        default=suppressed,
        metavar="DOUBLINGS",
        help="most doublings of a trajectory of nuts (default 10)",
    )
    chains.add_argument(
        "--init",
        choices=KINDS,
        default=suppressed,
        help="where chains begin: uniform on the real line, or a draw of guide or prior each "
        "(default uniform)",
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="SITE=VALUE",
        help="a covariate and the value, a number or the name of a class, that data are predicted "
        "at (default: the rows' own)",
    )
    parser.add_argument(
        "--counterfactual",
        action="append",
        default=[],
        metavar="'NAME: SITE=VALUE, ...'",
        help="an intervention, whose counterfactuals are written beside the posterior: numbers or "
        "names of classes, such as 'thin: thickness=1.5'",
    )
    posterior_flags(parser)
    loader = data_flags(parser, rest)

    def run(options: Namespace) -> int:
        fitted, dataset = run_and_data(options, loader)
        tell(write_posterior(fitted, dataset, options.folder, options), options.json)
        return 0

    return run


def check(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models check`` and what it runs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or a .nc file")

    def run(options: Namespace) -> int:
        from ppl_models.inference.diagnostics.verdict import verdict

        with reading(options.folder):
            judged = verdict(posterior_of(options.folder))
        if options.json:
            findings = [found.plain() for found in judged.findings]
            say_json({"trusted": judged.ok, "findings": findings})
        else:
            say(judged)
        return 0 if judged.ok else 3

    return run


def posterior_flags(parser: Parser) -> None:
    """Flags that say which rows a posterior is of, and how many draws it has."""
    group = parser.add_argument_group("the posterior that is written")
    group.add_argument(
        "--split",
        default="test",
        choices=("train", "validation", "test"),
        help="rows of which part (default test)",
    )
    group.add_argument("--rows", type=positive, default=1000, help="rows exported (default 1000)")
    group.add_argument("--draws", type=positive, default=200, help="draws per row (default 200)")
    group.add_argument(
        "--draws-for",
        type=positive,
        metavar="ROWS",
        help="rows whose draws are kept, the first ones; parameters and k-hat are kept for all "
        "(default: draws of all rows)",
    )
    group.add_argument(
        "--oracle",
        action="append",
        default=[],
        metavar="CAUSE=FILE:FUNCTION",
        help="a function of your own that reads a cause in data (rows first), for the check "
        "whether counterfactuals show what was set; of a pair whose rows may lack modalities, by "
        "modality, what tells a row's class from it",
    )


def write_posterior(
    run: Run, dataset: Dataset, folder: Path, options: Namespace
) -> dict[str, Any]:
    """Write the posterior that the flags ask for; returns its path and whether to trust it."""
    from ppl_models.inference.diagnostics.verdict import verdict
    from ppl_models.inference.posterior.export import save

    table: Table = getattr(dataset, options.split)
    rows = range(min(options.rows, len(table)))
    path = getattr(options, "file", None) or folder / POSTERIOR
    method = getattr(options, "method", "guide")
    few, at = options.draws_for, _covariates(getattr(options, "at", []))
    schema = {} if run.pair.schema is None else run.pair.schema.sites
    classes = {name: site.classes for name, site in schema.items()}
    worlds = _interventions(getattr(options, "counterfactual", []), classes)
    told = chosen(options, ("chains", "target_accept", "max_tree_depth", "init"))
    if method == "guide":
        if told:
            flag = "--" + next(iter(told)).replace("_", "-")
            raise UsageError(f"{flag} goes with --method nuts or hmc: the guide has no chains")
        kept = None if few is None else rows[:few]
        idata = run.posterior(
            table,
            path=path,
            rows=rows,
            draws=options.draws,
            draws_for=kept,
            covariates=at,
            counterfactual=worlds,
            oracle=_oracles(options.oracle),
        )
    else:
        if options.oracle:
            raise UsageError(f"--oracle goes with --method guide: {method} tells no causes")
        if at:
            raise UsageError(f"--at goes with --method guide: {method} predicts no data")
        if worlds:
            raise UsageError(
                f"--counterfactual goes with --method guide: chains of {method} are its draws"
            )
        if few is not None:
            raise UsageError(
                f"--draws-for goes with --method guide: chains of {method} are their draws"
            )
        if method == "hmc" and "max_tree_depth" in told:
            raise UsageError("--max-tree-depth goes with --method nuts: hmc builds no trees")
        idata = getattr(inference, method)(
            run.pair,
            table,
            rows,
            draws=options.draws,
            warmup=options.draws,
            progress=not options.quiet,
            **told,
        )
        save(idata, path)
    judged = verdict(idata)
    told = {"posterior": str(path), "trusted": judged.ok}
    return told if judged.ok else {**told, "failed": [check.sentence for check in judged.failed]}


def _oracles(texts: list[str]) -> dict[str, Any]:
    from ppl_models import catalogue

    found = {}
    for text in texts:
        cause, _, where = text.partition("=")
        if not cause or ":" not in where:
            raise UsageError(f"--oracle is {text!r}, expected CAUSE=FILE:FUNCTION")
        found[cause] = catalogue.loaded(where, "oracle")
        if not callable(found[cause]):
            raise UsageError(f"--oracle is {text!r}, which is no function")
    return found


def _covariates(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise UsageError(f"--at is {text!r}, expected SITE=VALUE")
        if name in found:
            raise UsageError(f"--at gives {name} twice, expected one value of a site")
        found[name] = value
    return found


def _interventions(
    texts: list[str], classes: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float | str]]:
    found: dict[str, dict[str, float | str]] = {}
    for text in texts:
        name, _, rest = (part.strip() for part in text.partition(":"))
        words = [[part.strip() for part in pair.partition("=")[::2]] for pair in rest.split(",")]
        if not name or not all(site and value for site, value in words):
            raise UsageError(f"--counterfactual is {text!r}, expected 'NAME: SITE=VALUE, ...'")
        if name in found or len(dict(words)) < len(words):
            raise UsageError(f"--counterfactual is {text!r}, which gives a name or a site twice")
        found[name] = {site: _value(word, classes.get(site, ())) for site, word in words}
    return found


def _value(word: str, classes: Sequence[str]) -> float | str:
    """A number, where it is one and not the name of a class."""
    try:
        return word if word in classes else float(word)
    except ValueError:
        return word


def data_flags(parser: Parser, rest: list[str]) -> dict[str, str]:
    """``--data``, and the options of the data that it names, by the parsed arguments' names."""
    parser.add_argument(
        "--data",
        help="where the data are now, or other rows: a name or a file, with its options as in "
        "fit (default: what the run was fitted on)",
    )
    first = Parser(add_help=False)
    first.add_argument("--data")
    known, _ = first.parse_known_args([a for a in rest if a not in ("-h", "--help")])
    if known.data is None:
        return {}
    return add_loader(parser, data.loader(known.data), f"options of {known.data}")


def run_and_data(options: Namespace, loader: Mapping[str, str]) -> tuple[Run, Dataset]:
    """A fitted pair, and the data it was fitted on, made again, or those of ``--data``.

    Args:
        options: With ``folder``, ``pair`` and ``data``.
        loader: See :func:`data_flags`.

    Raises:
        ValueError: If the data were arrays in memory and are not kept, or have changed since.
    """
    from ppl_models.inference.posterior.support import as_fitted
    from ppl_models.inference.training.run_rows import rows_of_run

    folder: Path = options.folder
    run = inference.load(folder, options.pair)
    recipe = run.description["data"]
    given = {loader[name]: value for name, value in chosen(options, list(loader)).items()}
    if options.data is not None:
        dataset = _given_data(recipe, options.data, given)
        if dataset.recipe["digest"] != recipe.get("digest"):
            note = f"{options.data} is not what {folder} was fitted on; these are other rows"
            print(f"ppl-models: {shown(note)}", file=sys.stderr)
        return run, dataset
    dataset = rows_of_run(folder, recipe)
    try:
        as_fitted(run.pair, next(part for part in (dataset.train, dataset.test) if len(part)))
    except ValueError as error:
        raise ValueError(f"{folder}/run.json does not fit its own data: {error}") from None
    return run, dataset


def _given_data(recipe: Mapping[str, Any], name: str, given: dict[str, Any]) -> Dataset:
    """The data of this name, made as those of a recipe were as far as it tells."""
    known = inspect.signature(data.loader(name)).parameters
    told = {n: v for n, v in recipe.get("options", {}).items() if n in known}
    same = name == recipe["name"] or data.is_file(name)
    with taking(name):
        dataset = data.load(name, **{**(told if same else {}), **given})
    steps = recipe.get("steps", [])
    return data.remake({**dataset.recipe, "steps": steps}) if same and steps else dataset
