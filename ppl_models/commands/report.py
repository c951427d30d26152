"""``ppl-models report DIR`` and ``ppl-models compare DIR DIR ...``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ppl_models.commands.flags import Parser, UsageError
from ppl_models.commands.output import say, say_json
from ppl_models.pages.posterior_file import posterior_of, reading

REPORT = "report.html"
Options = argparse.Namespace


def report(parser: Parser, rest: list[str]) -> Callable[[Options], int]:
    """Flags of ``ppl-models report`` and what it runs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or a .nc file")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument(
        "--file", type=Path, help=f"page to write (default DIR/{REPORT}, or beside the .nc file)"
    )
    parser.add_argument(
        "--simulations",
        type=int,
        default=200,
        help="rows simulated to check the guide's calibration, 0 for none (default 200)",
    )

    def run(options: Options) -> int:
        from ppl_models.pages.report import check_page, check_simulations, put, read, render

        check_simulations(options.simulations)
        source: Path = options.folder
        beside = source / REPORT if source.is_dir() else source.with_suffix(".html")
        path = options.file or beside
        check_page(path)
        with reading(source):
            fit = read(source, options.pair)
            trusted, text = render(fit, options.simulations)
        put(path, text)
        if options.json:
            say_json({"report": str(path), "trusted": trusted})
        else:
            say(f"{path}: {'trusted' if trusted else 'not to be trusted'}")
        return 0

    return run


def compare(parser: Parser, rest: list[str]) -> Callable[[Options], int]:
    """Flags of ``ppl-models compare`` and what it runs."""
    parser.add_argument(
        "folders", type=Path, metavar="DIR", nargs="+", help="folders of runs, or .nc files"
    )

    def run(options: Options) -> int:
        from ppl_models.inference.diagnostics.comparison import compare

        folders: list[Path] = options.folders
        if len(folders) < 2:
            raise UsageError("compare needs at least two folders")
        twice = [folder for folder in folders if folders.count(folder) > 1]
        if twice:
            raise UsageError(f"{twice[0]} is given twice")
        with reading(*folders):
            comparison = compare({str(folder): posterior_of(folder) for folder in folders})
        say_json(comparison.plain()) if options.json else say(comparison)
        return 0

    return run
