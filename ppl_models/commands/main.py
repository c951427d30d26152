"""The command line: ``ppl-models COMMAND``; without one it lists them.

Exit codes: 0 done; 1 it failed on the way; 2 the command, data or folder do not fit, and nothing
was done; 3 ``check``: the posterior is not to be trusted; 130 interrupted, and resumable.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models.commands.flags import (
    Parser,
    UsageError,
    add_loader,
    add_settings,
    chosen,
    positive,
)

if TYPE_CHECKING:
    from ppl_models.data import Dataset, Table
    from ppl_models.inference import Run

POSTERIOR = "posterior.nc"
BASELINE_EPOCHS = 1000  # full-batch steps on the labelled rows, to convergence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Warnings of libraries underneath are not the user's to act on.
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", "training is not compiled")
    warnings.formatwarning = lambda message, *_, **__: f"ppl-models: {message}\n"
    logging.getLogger().setLevel(logging.ERROR)
    try:
        command, options = _command(arguments)
        return command(options)
    except KeyboardInterrupt as stop:
        return _say(f"{stop or 'interrupted'}; add --resume to go on from there", 130, once=True)
    except UsageError as problem:
        return _say(f"error: {problem}", 2, once=True)
    except (ValueError, FileNotFoundError) as problem:
        return _say(f"error: {problem}", 2)
    except (ArithmeticError, OSError, RuntimeError) as problem:
        return _say(f"error: {str(problem) or type(problem).__name__}", 1)


def _say(line: str, code: int, once: bool = False) -> int:
    # Under torchrun: what is the same in all processes is said by the first alone.
    if not once or os.environ.get("RANK", "0") == "0":
        print(f"ppl-models: {' '.join(line.split())}", file=sys.stderr)
    return code


def _command(arguments: list[str]) -> tuple[Callable[[argparse.Namespace], int], Any]:
    parser = Parser(prog="ppl-models", description="A zoo of deep generative models on Pyro.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    makers: dict[str, tuple[str, Callable[[Parser, list[str]], Any]]] = {
        "list": ("papers in the zoo", _list),
        "show": ("a paper's story, settings and training", _show),
        "fit": ("train a pair and write its posterior", _fit),
        "export": ("write the posterior of a run again", _export),
        "check": ("say whether a run's posterior can be trusted", _check),
        "report": ("write a page that shows a run and its posterior", _report),
        "compare": ("compare posteriors of the same rows", _compare),
        "intervene": ("draw rows as they would be had sites had other values", _intervene),
        "transfer": ("draw rows with sites of other rows", _transfer),
        "data": ("data sets: list, show, build or preview them", _data),
    }
    for name, (text, _) in makers.items():
        commands.add_parser(name, help=text, add_help=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        sys.exit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    if name not in makers:
        from ppl_models.config import unknown

        raise UsageError(unknown("command", name, makers))
    own = Parser(prog=f"ppl-models {name}", description=makers[name][0])
    own.add_argument("--json", action="store_true", help="print JSON for machines")
    command = makers[name][1](own, rest)
    return command, own.parse_all(rest)


def _list(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from ppl_models import catalogue

        cards = {name: catalogue.get(name).card for name in catalogue.names()}
        if options.json:
            print(json.dumps({n: {"title": c.title, "task": c.task} for n, c in cards.items()}))
        else:
            for name, card in cards.items():
                print(f"{name:8} {card.year}  {card.task}: {card.title}")
        return 0

    return run


def _show(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("name", metavar="NAME", help="paper, or path/to/file.py:Class")

    def run(options: argparse.Namespace) -> int:
        from ppl_models.pages.describe import describe, page

        print(json.dumps(describe(options.name)) if options.json else page(options.name), end="")
        return 0

    return run


OBJECTIVE = (
    "other bound, beside the paper's other terms: 'iwelbo(particles=8, lam=0.5)', or a weighted "
    "sum such as 'elbo(beta=4) + 0.5 * emphasis(y, weight=10)'"
)


def _fit(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models import catalogue, data
    from ppl_models.inference.objectives.by_name import parse_objective
    from ppl_models.inference.objectives.stage import Training

    parser.add_argument("name", metavar="NAME", help="paper, or path/to/file.py:Class")
    parser.add_argument("--data", required=True, help=f"{', '.join(data.names())} or a file")
    parser.add_argument("--objective", help=OBJECTIVE)
    parser.add_argument("--out", type=Path, required=True, help="folder for the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
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
    _posterior_flags(parser)
    first, _ = Parser(add_help=False), None
    first.add_argument("name", nargs="?")
    first.add_argument("--data")
    known, _ = first.parse_known_args([a for a in rest if a not in ("-h", "--help")])
    settings: list[str] = []
    loader_names: dict[str, str] = {}
    if known.name is not None:
        config = catalogue.get(known.name).Config
        settings = add_settings(parser, config, f"settings of {known.name}")
    training = add_settings(parser, Training, "training (one value, or one per stage)", True)
    if known.data is not None:
        loader_names = add_loader(parser, data.loader(known.data), f"options of {known.data}")

    def run(options: argparse.Namespace) -> int:
        from ppl_models import inference
        from ppl_models.inference.training.processes import group

        bound = parse_objective(options.objective) if options.objective else None
        load = {loader_names[n]: v for n, v in chosen(options, list(loader_names)).items()}
        dataset = data.load(options.data, **load)
        own = {
            name: value[0] if isinstance(value, tuple) and not _is_tuple(config, name) else value
            for name, value in chosen(options, settings).items()
        }
        pair = catalogue.build(options.name, dataset, seed=options.seed, **own)
        with group(options.device) as processes:
            result = inference.fit(
                pair,
                dataset,
                stages=pair.stages(bound),
                seed=options.seed,
                device=options.device,
                out=options.out,
                resume=options.resume,
                checkpoint_seconds=options.checkpoint_seconds,
                progress=not options.quiet,
                **chosen(options, training),
            )
            errors = _errors(result, dataset, options.baseline, options.seed)
        if not processes.first:
            return 0
        report = {
            "paper": options.name,
            "data": dataset.name,
            "rows": len(dataset.train),
            "steps": int(result.history["step"][-1]),
            "seconds": round(result.history["seconds"][-1], 1),
            "loss": result.history["loss"][-1],
            **errors,
            **_write_posterior(result, dataset, options.out, options),
        }
        _print(report, options.json)
        return 0

    return run


def _is_tuple(config: Any, name: str) -> bool:
    return isinstance(getattr(config(), name), tuple)


def _errors(run: Run, dataset: Dataset, baseline: bool, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    labels = [s for s in run.pair.card.labels if s in dataset.test.sites and len(dataset.test)]
    for site in labels:
        found[f"test error of {site}"] = run.error(dataset.test, site)
        if baseline:
            found[f"supervised-only error of {site}"] = _supervised(run, dataset, site, seed)
    return found


def _supervised(run: Run, dataset: Dataset, site: str, seed: int) -> float:
    from ppl_models import catalogue, inference

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
    return alone.error(dataset.test, site)


def _posterior_flags(parser: Parser) -> None:
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=positive, default=1000, help="rows exported (default 1000)")
    parser.add_argument("--draws", type=positive, default=200, help="draws per row (default 200)")
    parser.add_argument(
        "--draws-for",
        type=positive,
        metavar="ROWS",
        help="rows whose draws are kept, the first ones; parameters and k-hat are kept for all "
        "(default: draws of all rows)",
    )


def _write_posterior(
    run: Run, dataset: Dataset, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    from ppl_models.inference.diagnostics.verdict import verdict
    from ppl_models.inference.posterior import export

    table: Table = getattr(dataset, options.split)
    rows = range(min(options.rows, len(table)))
    path = getattr(options, "file", None) or folder / POSTERIOR
    method = getattr(options, "method", "guide")
    few = options.draws_for
    if few is not None and method != "guide":
        raise UsageError(
            f"--draws-for goes with --method guide: chains of {method} are their draws"
        )
    if method != "guide":
        from ppl_models import inference

        idata = getattr(inference, method)(
            run.pair,
            table,
            rows,
            draws=options.draws,
            warmup=options.draws,
            progress=not options.quiet,
        )
        export.save(idata, path)
    else:
        chosen = None if few is None else rows[:few]
        idata = run.posterior(table, path=path, rows=rows, draws=options.draws, draws_for=chosen)
    return {"posterior": str(path), "trusted": verdict(idata).ok}


def _export(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument("--file", type=Path, help=f"file to write (default DIR/{POSTERIOR})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--method",
        choices=("guide", "nuts", "hmc"),
        default="guide",
        help="draws from the guide, or chains with labels summed out (--draws of warm-up first)",
    )
    _posterior_flags(parser)

    def run(options: argparse.Namespace) -> int:
        from ppl_models.commands.intervene import run_and_data

        result, dataset = run_and_data(options.folder, options.pair)
        _print(_write_posterior(result, dataset, options.folder, options), options.json)
        return 0

    return run


def _check(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or a .nc file")

    def run(options: argparse.Namespace) -> int:
        from ppl_models.inference.diagnostics.verdict import verdict
        from ppl_models.inference.posterior import export

        path = options.folder
        if path.is_dir():
            path = path / POSTERIOR
        found = verdict(export.load(path))
        if options.json:
            told = {"trusted": found.ok, "findings": found.findings, "passed": found.passed}
            print(json.dumps(told))
        else:
            print("\n".join(found.findings))
            print("trusted" if found.ok else "not to be trusted")
        return 0 if found.ok else 3

    return run


def _report(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models.commands.report import report

    return report(parser, rest)


def _compare(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models.commands.report import compare

    return compare(parser, rest)


def _intervene(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models.commands.intervene import intervene

    return intervene(parser, rest)


def _transfer(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models.commands.intervene import transfer

    return transfer(parser, rest)


def _data(parser: Parser, rest: list[str]) -> Callable[[argparse.Namespace], int]:
    from ppl_models.commands.data import command

    return command(parser, rest)


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        text = f"{100 * value:.2f} %" if "error" in key else str(value)
        print(f"{key:28} {text}")


if __name__ == "__main__":
    sys.exit(main())
