"""The term over rows that docs/coupled-terms.md writes."""

from __future__ import annotations

import re

import pytest
import torch
from worlds.pages import run_page
from worlds.two_codes import TwoCodes, rows

from ppl_models.inference import EnumeratedELBO


def test_the_coupled_term_of_the_docs_is_right(capsys):
    """It takes the whole batch's covariance, counts once per row, and has 15 lines of its own."""
    scope = run_page("coupled-terms")
    printed = [float(n) for n in re.findall(r"[-\d.e]+", capsys.readouterr().out)]
    assert len(printed) == 12 and all(n > 0 for n in printed)
    term = scope["Covariance"]("b", 3.0)
    assert repr(term) == "Covariance('b', weight=3)"
    world, batch = TwoCodes(given=True), rows("x", scale=10)
    run = EnumeratedELBO(2).run(world.model, world.guide, batch)
    codes = run.codes("b")
    z, share = codes.values.reshape(-1, 2), codes.log_weights.exp().reshape(-1)
    expected = torch.cov(z.T, correction=0, aweights=share.detach())[0, 1].square()
    torch.testing.assert_close(term.rows(run), (3 * expected).expand(6))
    with pytest.raises(ValueError, match="no loss of a single row"):
        term.per_datum(world.model, world.guide, batch)
