"""The tables of known answers are the ones that reference implementations were run on."""

from __future__ import annotations

import pytest
from worlds.code_tables import golden_arrays, models_of_one_set

# Sums of training factors, training codes and their squares, and test codes.
SUMS = {
    "axis_aligned": (17233, 196.162672681, 10048.7, 3.11667303612),
    "rotated": (17059, 87.8424614801, 9823.15714286, -4.10918125603),
    "redundant": (17195, -99.1117459153, 32681.2001202, 64.7923871682),
    "constant_codes": (17184, 6121.52534389, 19131.7628897, 3014.29258806),
    "med_wide": (16996, -178.831209029, 170589.748486, 143.3035849),
}


@pytest.mark.parametrize("name", SUMS)
def test_the_inputs_of_the_golden_values(name):
    factors, codes, _, asked = golden_arrays(name)
    found = factors.sum(), codes.sum(), (codes**2).sum(), asked.sum()
    assert found == pytest.approx(SUMS[name], abs=1e-6)


def test_the_models_of_one_set():
    tables, _ = models_of_one_set()
    sums = [table.codes.sum() for table in tables]
    assert sums == pytest.approx([-61.6044650327, 60.8060572841, -54.0456429885, 21.5514978075])
    squares = [(table.codes**2).sum() for table in tables]
    assert squares == pytest.approx([5054.66843231, 5060.82375822, 5054.66774936, 6001.49544135])
