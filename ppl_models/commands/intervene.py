"""``ppl-models intervene DIR --set SITE=VALUE``, ``counterfactual`` and ``transfer DIR SITE``."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models.commands.flags import Parser, UsageError, positive
from ppl_models.commands.output import say, say_json
from ppl_models.commands.posterior import data_flags, run_and_data
from ppl_models.config import check_seed
from ppl_models.files import write_atomically
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_models.batch import Batch
    from ppl_models.data import Table
    from ppl_models.inference import Run

    Column = tuple[str, Mapping[str, Tensor]]  # what it is of, and the sites' values


def intervene(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models intervene`` and what it runs."""
    loader = _flags(parser, rest, "intervention.png", 8)
    _codes_flag(parser)
    return _grid(parser, loader, _moved)


def counterfactual(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models counterfactual`` and what it runs."""
    return _grid(parser, _flags(parser, rest, "counterfactual.png", 8), _counterfactual)


def _grid(
    parser: Parser, loader: Mapping[str, str], made: Callable[..., Mapping[str, Tensor]]
) -> Callable[[Namespace], int]:
    """A column for each combination of the values that sites are set to."""
    parser.add_argument(
        "--set",
        dest="values",
        action="append",
        required=True,
        metavar="SITE=VALUE,VALUE",
        help="a site and the values it takes in turn: numbers, or names of classes",
    )

    def run(options: Namespace) -> int:
        fitted, table, batch = _start(options, loader)
        schema = {} if fitted.pair.schema is None else fitted.pair.schema.sites
        known = {**table.classes, **{name: site.classes for name, site in schema.items()}}
        names, values = zip(*(_values(text, known) for text in options.values), strict=True)
        columns = []
        for chosen in itertools.product(*values):
            sites = {name: value for name, (_, value) in zip(names, chosen, strict=True)}
            head = ", ".join(word for word, _ in chosen)
            columns.append((head, made(fitted, table, batch, sites, options)))
        return _show(options, fitted, table, batch, columns)

    return run


def transfer(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models transfer`` and what it runs."""
    loader = _flags(parser, rest, "transfer.png", 6)
    _codes_flag(parser)
    parser.add_argument("sites", nargs="+", metavar="SITE", help="what goes over")

    def run(options: Namespace) -> int:
        import torch

        fitted, table, batch = _start(options, loader)
        torch.manual_seed(check_seed(options.seed))
        how = {"codes": options.codes, "draws": options.draws}
        sources = fitted.pair.transfer(batch, batch, options.sites, **how)
        columns = []
        for place, number in enumerate(batch.rows):
            # One row's value for all rows, by draw where there are several.
            one = (slice(None), [place]) if options.draws else place
            sites = {site: sources[site][one] for site in options.sites}
            columns.append((f"of {int(number)}", _moved(fitted, table, batch, sites, options)))
        return _show(options, fitted, table, batch, columns)

    return run


def _flags(parser: Parser, rest: list[str], file: str, rows: int) -> dict[str, str]:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=positive, default=rows, help=f"rows (default {rows})")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument(
        "--draws",
        type=positive,
        metavar="N",
        help="N draws of each: N pictures side by side, or a first dimension of the arrays",
    )
    parser.add_argument(
        "--out", type=Path, help=f"a .png, or an .npz of all sites (default DIR/{file})"
    )
    parser.set_defaults(file=file, codes="draw")
    return data_flags(parser, rest)


def _codes_flag(parser: Parser) -> None:
    parser.add_argument(
        "--codes",
        choices=("draw", "mean"),
        default="draw",
        help="what sites that are not set take: a draw, or their mean, without noise",
    )


def _start(options: Namespace, loader: Mapping[str, str]) -> tuple[Run, Table, Batch]:
    import torch

    from ppl_models.inference.posterior.support import as_fitted

    if options.draws and options.codes == "mean":
        raise UsageError(f"--draws is {options.draws}, but with --codes mean nothing is drawn")
    run, dataset = run_and_data(options, loader)
    table = as_fitted(run.pair, getattr(dataset, options.split))
    if not 1 <= options.rows <= len(table):
        raise UsageError(f"--rows is {options.rows}, expected 1 to {len(table)}")
    # The labels are left out: what the pair makes of them is what is looked at.
    seen = table.only(*run.pair.card.given)
    (batch,) = seen.batches(torch.arange(options.rows))
    like = run.pair.like()
    return run, table, batch.to(like.device, like.dtype)


def _values(text: str, known: Mapping[str, Sequence[str]]) -> tuple[str, list[tuple[str, float]]]:
    name, _, given = text.partition("=")
    words = given.split(",") if given else []
    if not words:
        raise UsageError(f"--set is {text!r}, expected SITE=VALUE or SITE=VALUE,VALUE")
    classes = list(known.get(name, ()))
    try:
        values = [float(classes.index(w)) if w in classes else float(w) for w in words]
    except ValueError:
        names = f", or one of the classes {', '.join(classes)}" if classes else ""
        raise UsageError(f"--set is {text!r}, expected numbers{names}") from None
    for word, value in zip(words, values, strict=True):
        if classes and value not in range(len(classes)):
            few = ", ".join(classes if len(classes) <= 12 else [*classes[:11], "..."])
            raise UsageError(
                f"--set is {text!r}, but {word} is none of the {len(classes)} classes {few}, nor "
                f"a number of one (0 to {len(classes) - 1})"
            )
    return name, list(zip(words, values, strict=True))


def _moved(
    run: Run, table: Table, batch: Batch, sites: Mapping[str, Any], options: Namespace
) -> Mapping[str, Tensor]:
    """The rows with sites set, by the same draws in every column."""
    import torch

    from ppl_models.interventions import intervene

    torch.manual_seed(check_seed(options.seed))
    return intervene(run.pair, batch, sites, codes=options.codes, draws=options.draws)


def _counterfactual(
    run: Run, table: Table, batch: Batch, sites: Mapping[str, Any], options: Namespace
) -> Mapping[str, Tensor]:
    """The rows as they would have been; what is known of them, labels too, is abducted from."""
    import torch

    from ppl_models.counterfactuals import counterfactual

    torch.manual_seed(check_seed(options.seed))
    card, like = run.pair.card, run.pair.like()
    names = [name for name in (*card.given, *card.labels) if name in table.sites]
    # Labels may be hidden in some of the rows, which then come as another batch.
    parts = list(table.only(*names).batches(torch.arange(options.rows)))
    found = [
        counterfactual(run.pair, part.to(like.device, like.dtype), sites, options.draws)
        for part in parts
    ]
    if len(found) == 1:
        return found[0]
    order = torch.argsort(torch.cat([_places(part.rows, batch.rows) for part in parts]))
    axis = 1 if options.draws else 0
    return {
        name: torch.cat([made[name] for made in found], axis).index_select(axis, order)
        for name in found[0]
    }


def _places(rows: Tensor, among: Tensor) -> Tensor:
    """Where row numbers stand among others."""
    return (rows.to(among.device)[:, None] == among).int().argmax(1)


def _side_by_side(columns: Sequence[Column]) -> list[Column]:
    """Each draw of each column as a column of its own."""
    return [
        (head if not place else "", {name: value[place] for name, value in values.items()})
        for head, values in columns
        for place in range(len(next(iter(values.values()))))
    ]


def _show(
    options: Namespace, run: Run, table: Table, batch: Batch, columns: Sequence[Column]
) -> int:
    """Write the columns as a picture beside the rows themselves, or as arrays."""
    path: Path = options.out or options.folder / options.file
    heads = ["row", *(head for head, _ in columns)]
    if path.suffix == ".npz":
        import numpy as np

        made = [values for _, values in columns]
        axis = 2 if options.draws else 1  # after draws, if any, and rows
        arrays: dict[str, Any] = {n: np.stack([c[n].cpu() for c in made], axis) for n in made[0]}

        def put(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
    else:
        site = next((site for site in run.pair.card.data if site in table.shapes), None)
        if site is None:
            raise UsageError(
                f"{table.name} has no pictures; write the values with --out values.npz"
            )
        shown = _side_by_side(columns) if options.draws else columns
        pictures = [(head, values[site]) for head, values in [("row", batch), *shown]]
        figure = _figure(pictures, table.shapes[site], batch.rows.tolist())

        def put(temporary: Path) -> None:
            figure.savefig(temporary, dpi=110, bbox_inches="tight", format="png")

    write_atomically(path, put)
    report = {"file": str(path), "rows": batch.count, "columns": heads}
    say_json(report) if options.json else say(path)
    return 0


def _figure(
    columns: Sequence[tuple[str, Tensor]], shape: Sequence[int], numbers: Sequence[int]
) -> Any:
    import numpy as np
    from matplotlib.figure import Figure

    from ppl_models.inference.plots.samples import images, mosaic

    values: np.ndarray[Any, Any] = np.stack([v.detach().cpu().numpy() for _, v in columns], 1)
    pictures = images(values.reshape(-1, *values.shape[2:]), shape)
    size = 0.7 * len(columns), 0.7 * len(numbers)
    ax = Figure(figsize=(max(size[0], 2), max(size[1], 2))).add_subplot()
    down, across = mosaic(ax, pictures, len(columns))
    ax.set_xticks(across, [in_figure(head) for head, _ in columns])
    ax.set_yticks(down, list(map(str, numbers)))
    ax.tick_params(length=0)
    return ax.figure
