"""Whether all combinations of code values occur: the factorisation of the codes' support."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ppl_models.config import check_seed, whole
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.results import result
from ppl_models.inference.objectives.code_terms.hausdorff_support import support_distance


def fos(
    table: CodeTable, batch: int = 128, standardised: bool = False, seed: int = 0
) -> xr.Dataset:
    """How far combinations of codes are from any row: factorisation of support.

    In a batch and for codes i and j, the squared Hausdorff distance of the rows' (z_i, z_j) from
    all combinations of a z_i and a z_j of the batch, see :func:`inference.support_distance`;
    summed over all pairs of codes and averaged over batches (Roth et al. 2023, arXiv 2210.07347,
    as in its code). Batches are of rows in a random order; rows that fill no batch are left out,
    unless there is none.

    Args:
        table: Codes; factors are not read.
        batch: Rows of a batch: fewer show less of the support, and the distance grows.
        standardised: Divide each code by its standard deviation first, so that models whose
            codes have different scales can be compared. A constant code stays as it is.
        seed: Of the order of rows.

    Returns:
        ``fos``, at least 0, 0 where every combination is a row; and ``fos_pairwise`` over ``code``
        and ``other``, of which it is the sum over pairs, NaN of a code with itself. With a
        single code ``fos`` is NaN.

    Raises:
        ValueError: If ``batch`` is less than 2.
    """
    whole("batch", batch, 2)
    order = numpy_generator(check_seed(seed), 0).permutation(len(table))
    codes = table.codes[order]
    if standardised:
        codes = codes / np.where(table.varying, codes.std(0), 1.0)
    size = codes.shape[1]
    pairs = torch.triu_indices(size, size, 1).T
    rows = min(batch, len(codes))
    found = [
        support_distance(torch.from_numpy(codes[start : start + rows]), pairs).numpy()
        for start in range(0, len(codes) - rows + 1, rows)
    ]
    mean = np.mean(found, axis=0)
    matrix = np.full((size, size), np.nan)
    for place, (i, j) in enumerate(pairs.tolist()):
        matrix[i, j] = matrix[j, i] = mean[place]
    values = {
        "fos": float(mean.sum()) if size > 1 else np.nan,
        "fos_pairwise": (("code", "other"), matrix),
    }
    names = {"other": list(table.code_names)}
    asked = {"batch": batch, "standardised": int(standardised), "seed": seed}
    why = {} if size > 1 else {"reason": "there is one code"}
    return result(table, values, names, **asked, **why)
