"""``ppl-models fit NAME --data SET --out DIR``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ppl_models import catalogue, data, inference
from ppl_models.commands.flags import (
    Flags,
    Parser,
    UsageError,
    add_loader,
    add_settings,
    chosen,
    taking,
)
from ppl_models.commands.output import tell
from ppl_models.commands.posterior import posterior_flags, write_posterior
from ppl_models.data import Dataset
from ppl_models.inference import Run, Training
from ppl_models.inference.objectives.by_name import parse_objective
from ppl_models.inference.training.processes import group
from ppl_models.pair import Pair

OBJECTIVE = (
    "other bound, beside the paper's other terms: 'iwelbo(particles=8, lam=0.5)', or a weighted "
    "sum such as 'elbo(beta=4) + 0.5 * emphasis(y, weight=10)'"
)
MORE = (
    "Settings of a paper and options of a data set are told where both are named: "
    "ppl-models fit m2 --data digits --help. Papers: ppl-models list; sets: ppl-models data list."
)
BASELINE_EPOCHS = 1000  # full-batch steps on the labelled rows, to convergence


class _Names(NamedTuple):
    """Names of the parsed arguments, by what they are options of."""

    settings: list[str]  # of the paper
    training: list[str]
    loader: dict[str, str]  # of the data set, with the loader's own names


def fit(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models fit``, which depend on its paper and data, and what it runs."""
    parser.usage = "%(prog)s NAME --data SET --out DIR [options]"
    parser.epilog = MORE
    _flags(parser.add_argument_group("the run"))
    posterior_flags(parser)
    names = _further_flags(parser, rest)
    return lambda options: _run(options, names)


def _flags(parser: Flags) -> None:
    parser.add_argument("name", metavar="NAME", help="paper, or path/to/file.py:Class")
    parser.add_argument("--data", required=True, help="one of ppl-models data list, or a file")
    parser.add_argument("--objective", help=OBJECTIVE)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="start over where there is a run in the folder"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--max-minutes",
        type=float,
        help="end the training after so many minutes; --resume goes on with it",
    )
    parser.add_argument(
        "--log-csv", type=Path, metavar="FILE", help="write the training curve as it grows"
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write it for TensorBoard, too"
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        help="seconds between two writes of the state (default 60)",
    )
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="also train the label network alone on the labelled rows, and print its error",
    )


def _further_flags(parser: Parser, rest: list[str]) -> _Names:
    """Flags of the paper, of training and of the data set, as far as they are named yet."""
    first = Parser(add_help=False)
    first.add_argument("name", nargs="?")
    first.add_argument("--data")
    known, _ = first.parse_known_args([a for a in rest if a not in ("-h", "--help")])
    settings: list[str] = []
    loader: dict[str, str] = {}
    if known.name is not None:
        config = catalogue.get(known.name).Config
        settings = add_settings(parser, config, f"settings of {known.name}")
    training = add_settings(parser, Training, "training (one value, or one per stage)", True)
    if known.data is not None:
        loader = add_loader(parser, data.loader(known.data), f"options of {known.data}")
    return _Names(settings, training, loader)


def _run(options: Namespace, names: _Names) -> int:
    bound = parse_objective(options.objective) if options.objective else None
    load = {names.loader[n]: v for n, v in chosen(options, list(names.loader)).items()}
    with taking(options.data):
        dataset = data.load(options.data, **load)
    for part in (dataset.train, getattr(dataset, options.split)):
        part.check_rows()
    pair = _build(options, names.settings, dataset)
    _check_split(pair, dataset, options.split)
    with group(options.device) as processes:
        run = inference.fit(
            pair,
            dataset,
            stages=pair.stages(bound),
            seed=options.seed,
            device=options.device,
            out=options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            checkpoint_seconds=options.checkpoint_seconds,
            max_minutes=options.max_minutes,
            callbacks=_loggers(options),
            progress=not options.quiet,
            **chosen(options, names.training),
        )
        errors = _errors(run, dataset, options.baseline, options.seed)
    if processes.first:
        report = {
            "paper": options.name,
            "data": dataset.name,
            "rows": len(dataset.train),
            **_labelled(dataset),
            "status": run.status,
            "steps": run.taken,
            **{name: run.history[name][-1] for name in ("seconds", "loss") if run.taken},
            **errors,
            **write_posterior(run, dataset, options.out, options),
        }
        tell(report, options.json)
        if run.status == "interrupted":
            note = f"{run.reason}, after {run.taken} of {run.planned} planned steps"
            print(f"ppl-models: {note}; add --resume to go on", file=sys.stderr)
    return 0


def _loggers(options: Namespace) -> tuple[Callable[[Run, int], None], ...]:
    found: list[Callable[[Run, int], None]] = []
    if options.log_csv is not None:
        found.append(inference.CSVLogger(options.log_csv))
    if options.tensorboard is not None:
        found.append(inference.TensorBoard(options.tensorboard))
    return tuple(found)


def _build(options: Namespace, names: list[str], dataset: Dataset) -> Pair:
    settings = chosen(options, names)
    return catalogue.build(options.name, dataset, seed=options.seed, **settings)


def _check_split(pair: Pair, dataset: Dataset, split: str) -> None:
    """Refuse a posterior of rows that the pair will have no points for."""
    from ppl_models.inference.posterior.points_by_row import check_points

    try:
        check_points(pair, getattr(dataset, split), dataset.train)
    except ValueError as error:
        raise UsageError(f"--split is {split}, expected train: {error}") from None


def _labelled(dataset: Dataset) -> dict[str, Any]:
    """How many training rows have a label, where not all have; the others are only trained on."""
    table = dataset.train
    return {
        f"rows with a label {site}": table.counts[site]
        for site in table.observed
        if not table.sites[site].is_floating_point()
    }


def _errors(run: Run, dataset: Dataset, baseline: bool, seed: int) -> dict[str, Any]:
    from ppl_models.inference.posterior.points_by_row import points_by_row

    errors: dict[str, Any] = {}
    if points_by_row(run.pair):  # of the training rows alone
        return errors
    for site, error in run.errors(dataset.test).items():
        errors[f"test error of {site}"] = error
        if baseline:
            errors[f"supervised-only error of {site}"] = _supervised(run, dataset, site, seed)
    return errors


def _supervised(run: Run, dataset: Dataset, site: str, seed: int) -> float:
    # M2's label network: one perceptron from x to the label, of the pair's own hidden units.
    hidden = getattr(run.pair.config, "hidden", None)
    sized = {} if hidden is None else {"hidden": hidden}
    network = catalogue.build("m2", dataset, seed=seed, **sized)
    alone = inference.fit(
        network,
        dataset.train.where_observed(site),
        inference.Classification(site),
        seed=seed,
        device=str(run.pair.like().device),
        progress=False,
        epochs=BASELINE_EPOCHS,
    )
    return alone.error(dataset.test.where_observed(site), site)
