"""What consoles and notebooks show of objects: few lines, and nothing of strangers' that acts."""

from __future__ import annotations

import numpy as np
import pytest

import ppl_models as zoo
from ppl_models import data, html_tables
from ppl_models.inference import Run, Verdict
from ppl_models.inference.diagnostics.finding import Finding

HOSTILE = "<script>\x1b[31m"
ESCAPED = "&lt;script&gt;\\x1b[31m"


@pytest.fixture(scope="module")
def rows():
    x = np.linspace(0, 1, 36).reshape(12, 3)
    columns = {"x": (HOSTILE, "b", "c")}
    made = data.from_arrays(x=x, y=np.resize([HOSTILE, "b"], 12), splits=(8, 2, 2))
    return data.Dataset(
        HOSTILE,
        *(part.known_by(columns=columns) for part in (made.train, made.validation, made.test)),
        made.recipe,
        {"y": HOSTILE},
    )


@pytest.fixture(scope="module")
def run(rows):
    pair = zoo.build("m2", rows, hidden=(4,), latent=2, likelihood="normal")
    made = Run(pair, f"sum_y q(y|x)\n{HOSTILE}" + " log p(x)" * 40, seed=3, data=rows)
    made.planned, made.status = 2000, "interrupted"
    for step in range(1, 1001):
        made.record(step, 0, 23.653018951416016, 12.34567)
    made.record_validation(1000, 24.1234567)
    return made


def test_a_run_is_ten_lines(run):
    head, objective, *others = repr(run).splitlines()
    assert head == "Run of m2, interrupted"
    assert objective.startswith(f"  objective       sum_y q(y|x) {HOSTILE[:8]}\\x1b[31m log")
    assert len(objective) == 100 and objective.endswith("…")
    assert others == [
        "  steps           1,000 of 2,000, 12.3 seconds",
        "  loss            23.653 nats a row",
        "  validation loss 24.123, least 24.123",
        "  data            <script>\\x1b[31m, 8 rows trained on",
        "  seed            3",
    ]
    assert repr(Run(run.pair, "ELBO")).splitlines()[1:] == [
        "  objective       ELBO", "  seed            0",
    ]  # fmt: skip


def test_notebooks_show_tables_whose_text_is_escaped(run, rows):
    found = Verdict((Finding(HOSTILE, False, f"{HOSTILE} is 3 (at most 2)", "try"),))
    (batch,) = rows.train.batches()
    shown = {
        "run": (run, "1,000 of 2,000"),
        "set": (rows, f"<td>2 classes, {ESCAPED}</td>"),
        "table": (rows.train, f"<td>{ESCAPED}, b, c</td>"),
        "batch": (batch.replace({HOSTILE: batch["x"]}), f"<td>{ESCAPED}</td><td>8 x 3</td>"),
        "pair": (run.pair, "<td>style (L)</td>"),
        "verdict": (found, f"<td>FAILED</td><td>{ESCAPED}</td>"),
    }
    for what, (object_, words) in shown.items():
        text = object_._repr_html_()
        assert words in text, what
        assert "<script" not in text and "\x1b" not in text, what
    assert repr(found) == str(found)


def test_long_names_are_cut():
    assert html_tables.some(["a" * 50, "b"]) == "a" * 39 + "…, b"
    assert html_tables.some(range(1000)) == "0, 1, 2, 3, 4, 5, ... (1,000)"
