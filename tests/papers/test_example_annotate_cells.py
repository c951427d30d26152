"""A user's path: an h5ad file, most cell types missing, to labels, codes and a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppl_models.catalogue import loaded
from ppl_models.testing import PairContract

pytest.importorskip("anndata")

FILE = Path(__file__).parents[2] / "examples" / "annotate_cells.py"
QUICK = ("--cells", "800", "--genes", "40", "--steps", "250", "--draws", "60")


class TestAnnotateCells(PairContract):
    pair = f"{FILE}:AnnotateCells"
    test_file_is_short_and_tells_only_the_story = None  # it is a script, too


def test_it_is_short():
    assert len(FILE.read_text().splitlines()) < 150


@pytest.fixture
def written():
    """As the script does: what pandas 3 makes of texts, anndata 0.12 does not write."""
    import anndata
    import pandas as pd

    texts = anndata.settings.override(allow_write_nullable_strings=True)
    with texts, pd.option_context("mode.string_storage", "python"):
        yield


def agrees(found):
    """Means, widths and labels of the guide beside NUTS.

    A deviation is half a nat; widths are those that the check ``width`` allows.
    """
    assert found["shift"] < 1
    assert found["least width"] > 0.5 and found["most width"] < 2
    assert found["label distance"] < 0.05


def test_cells_get_their_names(tmp_path, written, capsys):
    import anndata
    import pandas as pd

    found = loaded(f"{FILE}:main", "example")([*QUICK, "--out", str(tmp_path)])
    assert found["hidden error"] < 0.03
    agrees(found)
    labels = pd.read_csv(tmp_path / "labels.csv", index_col=0)
    adata = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    assert list(labels.index) == list(adata.obs_names) and len(labels) == 800
    assert list(labels["cell_type"]) == list(adata.obs["cell_type_predicted"].astype(str))
    assert adata.obsm["X_z"].shape == (800, 2)
    assert adata.obsm["cell_type_probs"].shape == (800, 5)
    assert "<html" in (tmp_path / "report.html").read_text()
    assert "hidden error" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.training
@pytest.mark.parametrize("seed", range(10))
def test_cells_get_their_names_at_full_size(seed, tmp_path, written):
    found = loaded(f"{FILE}:main", "example")(["--seed", str(seed), "--out", str(tmp_path)])
    assert found["hidden error"] < 0.03
    agrees(found)
