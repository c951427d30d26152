"""``ppl-models intervene DIR --set SITE=VALUE`` and ``ppl-models transfer DIR SITE``."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.commands.flags import Parser, UsageError, positive
from ppl_models.commands.posterior import run_and_data
from ppl_models.data import Table
from ppl_models.files import write_atomically
from ppl_models.inference import Run

Options = argparse.Namespace
GAP = 2  # pixels between pictures


def intervene(parser: Parser, rest: list[str]) -> Callable[[Options], int]:
    """Flags of ``ppl-models intervene`` and what it runs."""
    _flags(parser, "intervention.png", 8)
    parser.add_argument(
        "--set",
        dest="values",
        action="append",
        required=True,
        metavar="SITE=VALUE,VALUE",
        help="a site and the values it takes in turn: numbers, or names of classes",
    )

    def run(options: Options) -> int:
        run, table, batch = _start(options)
        sites = [_values(text, table) for text in options.values]
        columns, heads = [dict(batch)], ["row"]
        for place in itertools.product(*(values for _, values in sites)):
            chosen: dict[str, Any] = {
                name: value for (name, _), (_, value) in zip(sites, place, strict=True)
            }
            _seed(options.seed)  # the same draws in every column
            columns.append(run.pair.intervene(batch, **chosen))
            heads.append(", ".join(word for word, _ in place))
        lines = [str(int(number)) for number in batch.rows]
        return _show(options, table, run, columns, heads, lines)

    return run


def transfer(parser: Parser, rest: list[str]) -> Callable[[Options], int]:
    """Flags of ``ppl-models transfer`` and what it runs."""
    _flags(parser, "transfer.png", 6)
    parser.add_argument("sites", nargs="+", metavar="SITE", help="what goes over")

    def run(options: Options) -> int:
        run, table, batch = _start(options)
        _seed(options.seed)
        sources = run.pair.transfer(batch, batch, options.sites)
        columns, heads = [dict(batch)], ["row"]
        for place, number in enumerate(batch.rows):
            _seed(options.seed)  # the same draws in every column
            taken: dict[str, Any] = {site: sources[site][place] for site in options.sites}
            columns.append(run.pair.intervene(batch, **taken))
            heads.append(f"of {int(number)}")
        lines = [str(int(number)) for number in batch.rows]
        return _show(options, table, run, columns, heads, lines)

    return run


def _flags(parser: Parser, file: str, rows: int) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=positive, default=rows, help=f"rows (default {rows})")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument(
        "--out", type=Path, help=f"a .png, or an .npz of all sites (default DIR/{file})"
    )
    parser.set_defaults(file=file)


def _start(options: Options) -> tuple[Run, Table, Batch]:
    import torch

    run, dataset = run_and_data(options.folder, options.pair)
    table: Table = getattr(dataset, options.split)
    if not 1 <= options.rows <= len(table):
        raise UsageError(f"--rows is {options.rows}, expected 1 to {len(table)}")
    # The labels are left out: what the pair makes of them is what is looked at.
    seen = table.only(*run.pair.card.data)
    (batch,) = seen.batches(torch.arange(options.rows))
    like = run.pair.like()
    return run, table, batch.to(like.device, like.dtype)


def _values(text: str, table: Table) -> tuple[str, list[tuple[str, float]]]:
    name, _, given = text.partition("=")
    words = given.split(",") if given else []
    if not words:
        raise UsageError(f"--set is {text!r}, expected SITE=VALUE or SITE=VALUE,VALUE")
    classes = list(table.classes.get(name, ()))
    try:
        values = [float(classes.index(w)) if w in classes else float(w) for w in words]
    except ValueError:
        known = f", or one of the classes {', '.join(classes)}" if classes else ""
        raise UsageError(f"--set is {text!r}, expected numbers{known}") from None
    return name, list(zip(words, values, strict=True))


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _show(
    options: Options,
    table: Table,
    run: Run,
    columns: Sequence[dict[str, Tensor]],
    heads: Sequence[str],
    lines: Sequence[str],
) -> int:
    path: Path = options.out or options.folder / options.file
    if path.suffix == ".npz":
        import numpy as np

        made = columns[1:]
        arrays: dict[str, Any] = {n: np.stack([c[n].cpu() for c in made], 1) for n in made[0]}

        def put(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
    else:
        sites = [site for site in run.pair.card.data if site in table.shapes]
        if not sites:
            raise UsageError(
                f"{table.name} has no pictures; write the values with --out values.npz"
            )
        figure = _figure([c[sites[0]] for c in columns], table.shapes[sites[0]], heads, lines)

        def put(temporary: Path) -> None:
            figure.savefig(temporary, dpi=110, bbox_inches="tight", format="png")

    write_atomically(path, put)
    report = {"file": str(path), "rows": len(lines), "columns": list(heads)}
    print(json.dumps(report) if options.json else path)
    return 0


def _figure(
    columns: Sequence[Tensor], shape: Sequence[int], heads: Sequence[str], lines: Sequence[str]
) -> Any:
    import numpy as np
    from matplotlib.figure import Figure

    from ppl_models.inference.plots.samples import images, mosaic

    values: np.ndarray[Any, Any] = np.stack([c.detach().cpu().numpy() for c in columns], 1)
    pictures = images(values.reshape(-1, *values.shape[2:]), shape)
    size = 0.7 * len(heads), 0.7 * len(lines)
    ax = Figure(figsize=(max(size[0], 2), max(size[1], 2))).add_subplot()
    down, across = mosaic(ax, pictures, len(heads))
    ax.set_xticks(across, heads)
    ax.set_yticks(down, lines)
    ax.tick_params(length=0)
    return ax.figure
