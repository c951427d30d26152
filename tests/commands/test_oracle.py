"""An oracle on the command line: a function of the user's that reads a cause in data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ppl_models.commands.main import main
from ppl_models.inference.posterior import export

CELLS = f"{Path(__file__).parents[2] / 'examples' / 'cells.py'}:Cells"
READS = """
def glow(x):
    return x.amax(1)

def size(x):
    return 0 * x[:, 0] + 1

several = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of an SCM of one's own, and a file of oracles."""
    folder = tmp_path_factory.mktemp("oracle")
    draw = np.random.default_rng(0)
    dose = np.exp(draw.normal(size=200)).astype("float32")
    glow = (1 / (1 + dose)).astype("float32")
    x = (glow[:, None] + 0.1 * draw.normal(size=(200, 16))).astype("float32")
    np.savez(folder / "rows.npz", x=x, dose=dose, size=2 * dose, glow=glow)
    (folder / "reads.py").write_text(READS)
    line = f"fit {CELLS} --data {folder}/rows.npz --hidden 8 --epochs 2 --draws 20 --rows 20"
    line += f" --splits 120,20,60 --out {folder}/a --quiet"
    assert main(line.split()) == 0
    return folder


def test_check_says_what_it_reads(folder, capsys):
    """An oracle is wrong about rows by numbers of theirs; one that is blind, by what was set."""
    line = f"export {folder}/a --pair {CELLS} --rows 30 --draws 20"
    told = [f"--oracle={cause}={folder}/reads.py:{cause}" for cause in ("size", "glow")]
    assert main([*line.split(), *told]) == 0
    idata = export.load(folder / "a" / "posterior.nc")
    axioms = idata["axioms"]
    assert list(axioms["set_site"].values) == ["dose", "size", "glow"]
    seen = {name: v[idata.posterior["datum"]] for name, v in np.load(folder / "rows.npz").items()}
    read = {"size": np.ones(30), "glow": seen["x"].max(1)}
    for cause, value in read.items():
        own, found = seen[cause], axioms.sel(set_site=cause)
        for to, name in ((own, "own"), (np.roll(own, 1), "change")):
            exact = np.abs(value - to).mean() / np.ptp(own)
            assert float(found[f"effectiveness_{name}"]) == pytest.approx(exact, rel=1e-5)
    size, dose = (axioms.sel(set_site=cause) for cause in ("size", "dose"))
    assert float(size["effectiveness_error"]) == float(size["effectiveness_change"])
    assert np.isnan(dose["effectiveness_error"])
    capsys.readouterr()
    main(["check", f"{folder}/a", "--json"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)["findings"]}
    assert {"null intervention", "composition", "reversibility"} < set(found)
    assert found["effectiveness"]["variable"] == "glow"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("glow", "--oracle is 'glow', expected CAUSE=FILE:FUNCTION"),
        ("glow={}/reads.py:dose", "cannot load the oracle '{}/reads.py:dose': module"),
        ("glow={}/reads.py:several", "reads.py:several', which is no function"),
        ("z={}/reads.py:glow", "oracle: unknown cause 'z': expected one of dose, glow, size"),
        ("glow={}/reads.py:glow --method nuts", "--oracle goes with --method guide"),
    ],
)  # fmt: skip
def test_what_is_no_oracle_is_one_line(folder, capsys, given, sentence):
    line = f"export {folder}/a --pair {CELLS} --rows 4 --draws 20 --oracle {given}"
    assert main(line.replace("{}", str(folder)).split()) == 2
    error = capsys.readouterr().err
    assert sentence.replace("{}", str(folder)) in error and error.count("\n") == 1
