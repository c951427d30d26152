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
    line = f"export {folder}/a --pair {CELLS} --rows 30 --draws 20"
    assert main([*line.split(), "--oracle", f"glow={folder}/reads.py:glow"]) == 0
    axioms = export.load(folder / "a" / "posterior.nc")["axioms"]
    assert list(axioms["set_site"].values) == ["dose", "size", "glow"]
    assert np.isfinite(axioms["effectiveness_error"].sel(set_site="glow"))
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
