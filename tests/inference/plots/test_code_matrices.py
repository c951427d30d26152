"""Heat maps of codes by factors: the numbers in the picture are those of the metric."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from ppl_models.inference import metrics, plots
from ppl_models.inference.metrics.disentanglement.results import result

matplotlib.use("Agg")
TABLE = metrics.from_arrays(np.eye(40)[:, :30], np.arange(80).reshape(40, 2) % 3)
MATRIX = np.linspace(0, 1, 60).reshape(30, 2)
MATRIX[4] = np.nan
SCORES = result(TABLE, {"m": (("code", "factor"), MATRIX), "v": (("code",), MATRIX[:, 0])})


def test_the_largest_codes_are_shown_in_their_order():
    ax = plots.code_matrix(SCORES, "m", codes=5)
    np.testing.assert_allclose(ax.images[0].get_array(), MATRIX[25:])
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"z[{n}]" for n in range(25, 30)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["y[0]", "y[1]"]
    assert [t.get_text() for t in ax.texts] == [f"{v:.2f}" for v in MATRIX[25:].ravel()]
    assert ax.get_title() == "m, 5 of 30 codes"


def test_a_factor_that_was_left_out_has_no_number():
    few = SCORES.isel(code=slice(3, 6))
    ax = plots.code_matrix(few, "m")
    assert len(ax.texts) == 4  # one row of three is NaN
    assert ax.get_title() == "m"


@pytest.mark.parametrize(
    ("name", "codes", "words"),
    [
        ("n", 5, "unknown matrix over code and factor 'n': expected one of"),
        ("v", 5, "unknown matrix"),
        ("m", 0, "codes is 0, expected at least 1"),
    ],
)
def test_what_is_no_matrix_is_refused(name, codes, words):
    with pytest.raises(ValueError, match=words):
        plots.code_matrix(SCORES, name, codes)
