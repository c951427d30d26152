"""Time and memory of writing the posterior of many rows, and of their k-hat.

    python benchmarks/export.py [--rows 100000] [--draws 20] [--threads 1] [--out FILE]

Each line is a fresh process. `write` is `export.posterior(pair, table, path=...)` of a pair with
data of 64 and a code of 10, drawn and scored on the way; `peak` its largest resident set less
that of the same process before it, with the model, the table and a first small export in place;
`open + 100 rows` opens the file and reads the draws, parameters and k-hat of 100 neighbouring
rows, once, in another fresh process. `khat` is `diagnostics.khat` of as many rows with 200
draws; `ArviZ` is `az.psislw`, measured on 2,000 of them and scaled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

KINDS = {
    # Draws of all rows; parameters and diagnostics of all rows, draws of 1,000.
    "vae": ("vae", None),
    "m2": ("m2", None),
    "m2, draws for 1,000": ("m2", 1000),
}
KHAT_DRAWS, COMPARED = 200, 2000


def peak() -> float:
    """Largest resident set of this process so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(kind: str, rows: int, draws: int, path: str) -> dict[str, float]:
    """Seconds, MiB and size of one file."""
    import ppl_models as zoo
    from ppl_models.data import Table
    from ppl_models.inference.posterior import export

    name, with_draws = KINDS[kind]
    sizes: dict[str, Any] = {"classes": 10} if name == "m2" else {}
    pair = zoo.build(name, data_dim=64, latent=10, hidden=(64,), likelihood="bernoulli", **sizes)
    table = Table("benchmark", {"x": torch.rand(rows, 64).round()})
    export.posterior(pair, table, path=path, rows=range(100), draws=draws)
    before, start, busy = peak(), time.perf_counter(), time.process_time()
    chosen = None if with_draws is None else range(with_draws)
    export.posterior(pair, table, path=path, draws=draws, draws_for=chosen)
    seconds = time.perf_counter() - start
    return {
        "write s": seconds,
        "cpu s": time.process_time() - busy,
        "peak MiB": peak() - before,
        "file MB": Path(path).stat().st_size / 1e6,
    }


def read(path: str) -> dict[str, float]:
    """Seconds to open and read 100 rows, with ArviZ and with plain xarray."""
    import xarray as xr

    from ppl_models.inference.posterior import export

    found = {}
    for name, opened in (
        ("open + 100 rows s", lambda: export.load(path)),
        ("xarray s", lambda: xr.open_datatree(path, engine="h5netcdf")),
    ):
        start = time.perf_counter()
        idata = opened()
        some = {"datum": slice(500, 600)}
        for group, variable in (
            ("posterior", "z"), ("variational", "z_loc"), ("diagnostics", "khat"),
        ):  # fmt: skip
            np.asarray(idata[group][variable].isel(some))
        found[name] = time.perf_counter() - start
    return found


def khat(rows: int) -> dict[str, float]:
    """Seconds of k-hat, with ours and with ArviZ's, and their largest difference."""
    import arviz as az

    from ppl_models.inference.posterior import pareto

    weights = 2 * np.random.default_rng(0).normal(size=(KHAT_DRAWS, rows)).astype(np.float32)
    before, start = peak(), time.perf_counter()
    ours = pareto.khat(weights)
    seconds, memory = time.perf_counter() - start, peak() - before
    some = weights[:, :COMPARED].T.astype(np.float64)
    start = time.perf_counter()
    theirs = az.psislw(some)[1]
    return {
        "khat s": seconds,
        "ArviZ s": (time.perf_counter() - start) * rows / COMPARED,
        "peak MiB": memory,
        "difference": float(np.abs(ours[:COMPARED] - theirs).max()),
    }


def in_fresh_process(*arguments: object) -> dict[str, float]:
    """What one measurement prints, made in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def one(what: str, *arguments: str) -> dict[str, float]:
    """A measurement in this process, which must be fresh."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if what == "write":
        return write(arguments[0], int(arguments[1]), int(arguments[2]), arguments[3])
    return read(arguments[0]) if what == "read" else khat(int(arguments[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--one", nargs="+", default=None)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the fresh processes
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/posterior.nc"
        for kind in KINDS:
            found[kind] = in_fresh_process("write", kind, args.rows, args.draws, path)
            found[kind] |= in_fresh_process("read", path)
            _print(kind, found[kind])
    found["khat"] = in_fresh_process("khat", args.rows)
    _print(f"khat, {KHAT_DRAWS} draws", found["khat"])
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


def _print(name: str, values: dict[str, float]) -> None:
    print(f"{name:22}", "  ".join(f"{k} {v:.3g}" for k, v in values.items()), flush=True)


if __name__ == "__main__":
    main()
