"""``ppl-models predict DIR --data FILE --out labels.csv``."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models import inference
from ppl_models.commands.flags import Parser, UsageError, chosen, taking
from ppl_models.commands.output import tell
from ppl_models.commands.posterior import data_flags
from ppl_models.files import write_atomically

if TYPE_CHECKING:
    from ppl_models.data import Table
    from ppl_models.inference import Run

# Ending of the file, and the library that writes it.
ENDINGS = {".csv": "pandas", ".parquet": "pyarrow", ".h5ad": "anndata"}


def predict(parser: Parser, rest: list[str]) -> Callable[[Namespace], int]:
    """Flags of ``ppl-models predict`` and what it runs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--pair", help="where a pair of your own is, as given to fit")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write: .csv or .parquet with a row for each row of the data; or .h5ad, a "
        "copy of the data's h5ad file with predictions and codes in it",
    )
    parser.add_argument(
        "--particles", type=int, default=0, help="draws weighed by the model (default 0: none)"
    )
    parser.add_argument(
        "--draws", type=int, default=0, help="draws of the guide (default 0: its means)"
    )
    loader = data_flags(parser, rest)

    def run(options: Namespace) -> int:
        if options.data is None:
            raise UsageError("predict needs --data, a file or the name of a data set")
        _check_out(options.out, options.data)
        fitted = inference.load(options.folder, options.pair)
        given = {loader[name]: value for name, value in chosen(options, list(loader)).items()}
        table = _rows(fitted, options.data, given)
        how = {"particles": options.particles, "draws": options.draws}
        _write(fitted, table, Path(options.data), options.out, how)
        tell({"rows": len(table), "predictions": str(options.out)}, options.json)
        return 0

    return run


def _check_out(out: Path, source: str) -> None:
    """Refuse a file that cannot be written, before any work."""
    if out.suffix not in ENDINGS:
        raise UsageError(f"--out is {out}, expected a name that ends in {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: {out.parent} is no folder")
    if out.suffix == ".h5ad" and Path(source).suffix != ".h5ad":
        raise UsageError(f"--out is {out}, expected an h5ad file as --data, got {source}")
    if find_spec(library := ENDINGS[out.suffix]) is None:
        raise UsageError(f"--out is {out}, which {library} writes: pip install {library}")


def _rows(run: Run, source: str, given: Mapping[str, Any]) -> Table:
    from ppl_models.data import straight

    with taking(source):
        return straight.rows(source, run.pair.schema, run.description["data"], given)


def _write(run: Run, table: Table, source: Path, out: Path, how: Mapping[str, int]) -> None:
    if out.suffix == ".h5ad":
        _write_h5ad(run, table, source, out, how)
        return
    frame = run.predict(table, **how)

    def into(path: Path) -> None:
        if out.suffix == ".csv":
            frame.to_csv(path, index_label="row")
        else:
            frame.to_parquet(path)

    write_atomically(out, into)


def _write_h5ad(run: Run, table: Table, source: Path, out: Path, how: Mapping[str, int]) -> None:
    """Copy the file with predictions and codes in it; nothing else of it is changed."""
    import h5py
    import numpy as np
    from anndata.io import write_elem

    from ppl_models.inference.posterior.row_frames import cell_values

    with h5py.File(source, "r") as file:
        obs = file["obs"]
        if not isinstance(obs, h5py.Group) or "column-order" not in obs.attrs:
            raise ValueError(
                f"{source} has the layout of an old anndata, expected that since 0.7: read and "
                "write it with anndata"
            )
        order = [str(name) for name in obs.attrs["column-order"]]
        index = obs[obs.attrs["_index"]]
        cells = len(index["values"] if isinstance(index, h5py.Group) else index)
    if table.numbers.tolist() != list(range(cells)):
        raise ValueError(
            f"{len(table)} of the {cells} cells of {source} were read, expected all in their "
            "order: leave --splits out"
        )
    names = table.row_names if table.row_names is not None else map(str, range(cells))
    columns, entries = cell_values(run.pair, table, list(names), **how)

    def into(path: Path) -> None:
        shutil.copyfile(source, path)
        with h5py.File(path, "r+") as file:
            for name, values in columns.items():
                write_elem(file["obs"], name, values.array)
            listed = list(dict.fromkeys([*order, *columns]))
            file["obs"].attrs["column-order"] = np.array(listed, dtype=object)
            if "obsm" not in file:
                write_elem(file, "obsm", {})
            for name, values in entries.items():
                write_elem(file["obsm"], name, values)

    write_atomically(out, into)
