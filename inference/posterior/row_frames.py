"""What a fitted pair says of rows, as frames of pandas: labels with probabilities, and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import entry_name, host
from ppl_models.inference.posterior.prediction import by_rows, label_probabilities
from ppl_models.inference.posterior.rows import conditioned, undisturbed
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.target import PROBE, rows_of
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.interventions import intervene
from ppl_models.pair import Pair
from ppl_models.sample_sites import is_local

if TYPE_CHECKING:
    import pandas as pd


class RowCodes(NamedTuple):
    """Codes of rows, a column for each of their numbers.

    Attributes:
        mean: Means ``(N, D)``.
        scale: Standard deviations ``(N, D)``; NaN where the guide's factor has none.
    """

    mean: pd.DataFrame
    scale: pd.DataFrame


def predict(pair: Pair, table: Table, particles: int = 0, draws: int = 0) -> pd.DataFrame:
    """The most probable class of every row, and the probability of each.

    Args:
        pair: The pair.
        table: The rows; their labels are not looked at.
        particles: As of :func:`ppl_models.inference.posterior.prediction.label_probabilities`.
        draws: As of that function.

    Returns:
        A row for each row of the table, by its name where it has one, else by its position. For
        each label ``y`` of the pair a column ``y``, a categorical of the classes in the order of
        their codes, and columns ``y_probs[CLASS]``, in each of which a number from 0 to 1 stands.

    Raises:
        ValueError: If the pair has no label with classes, and as ``label_probabilities``.
    """
    import pandas as pd

    labels = [site for site in pair.card.labels if _has_classes(pair, site)]
    if not labels:
        raise ValueError(
            f"{pair.card.name} has no label whose classes could be predicted; its codes are "
            "those of run.codes"
        )
    columns: dict[str, Any] = {}
    for site in labels:
        found = label_probabilities(pair, table, site, particles, draws=draws)
        probs = host(found.reshape(len(table), -1))
        classes = _classes(pair, table, site, probs.shape[1])
        columns[site] = pd.Categorical.from_codes(probs.argmax(1), _texts(classes))
        for place, name in enumerate(classes):
            columns[f"{site}_probs[{name}]"] = probs[:, place]
    return pd.DataFrame(columns, index=_index(table))


def codes(pair: Pair, table: Table, site: str | None = None) -> RowCodes:
    """Mean and standard deviation of a code's factor in the guide, of every row.

    Of a code that hangs on a label or on another code they are those given the most probable
    class and the means above it, as in :meth:`ppl_models.Pair.intervene` with ``codes="mean"``.

    Args:
        pair: The pair.
        table: The rows; they need no labels.
        site: The code; may be left out where the guide has one.

    Returns:
        Frames with columns ``z[0]``, ``z[1]`` and so on, whose rows are named as in
        :func:`predict`.

    Raises:
        ValueError: If there is no such code, or there are several and none is named.
    """
    import pandas as pd

    table, there = _codes_of(pair, table)
    if not there:
        raise ValueError(f"{pair.card.name} has no continuous latent site whose values are codes")
    if site is None and len(there) > 1:
        raise ValueError(
            f"{pair.card.name} has the codes {', '.join(there)}, expected the name of one of them"
        )
    name = there[0] if site is None else site
    if name not in there:
        raise ValueError(f"{pair.card.name}: {unknown('code', name, there)}")

    def both(batch: Batch) -> Tensor:
        found = intervene(pair, batch, {}, codes="mean")
        trace = poutine.trace(poutine.condition(pair.guide, found)).get_trace(batch)
        mean = found[name]
        return torch.stack([mean, _deviation(trace.nodes[name]["fn"], mean)], 1)

    values = by_rows(pair, table, both, 0)
    shape = tuple(values.shape[2:])
    numbers = host(values.reshape(len(table), 2, -1))
    names = [entry_name(name, shape, place) for place in range(numbers.shape[2])]
    index = _index(table)
    return RowCodes(*(pd.DataFrame(numbers[:, k], index=index, columns=names) for k in range(2)))


def annotate(pair: Pair, table: Table, adata: Any, particles: int = 0, draws: int = 0) -> None:
    """Write predictions and codes of cells into an AnnData, in place.

    ``obs["y_predicted"]`` is the most probable class, a categorical, ``obsm["y_probs"]`` a frame
    of probabilities with a column for each class; ``obsm["X_z"]`` and ``obsm["X_z_scale"]`` are
    means and standard deviations ``(N, D)`` of each code ``z``. Nothing is written before all is
    known. What the pair does not have, labels or codes, is left out.

    Args:
        pair: The pair.
        table: The cells, in the order of ``adata``.
        adata: The ``AnnData``.
        particles: As of :func:`predict`.
        draws: As of :func:`predict`.

    Raises:
        ValueError: If the pair has neither labels nor codes, and as :func:`predict`.
    """
    obs, obsm = cell_values(pair, table, adata.obs_names, particles, draws)
    for name, column in obs.items():
        adata.obs[name] = column
    for name, values in obsm.items():
        adata.obsm[name] = values


def cell_values(
    pair: Pair, table: Table, obs_names: Any, particles: int = 0, draws: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What :func:`annotate` writes, as columns of ``obs`` and entries of ``obsm``.

    Args:
        pair: The pair.
        table: The cells.
        obs_names: Names of the cells, ``(N,)``.
        particles: As of :func:`predict`.
        draws: As of :func:`predict`.
    """
    obs: dict[str, Any] = {}
    obsm: dict[str, Any] = {}
    if any(_has_classes(pair, site) for site in pair.card.labels):
        found = predict(pair, table, particles, draws).set_axis(_texts(obs_names), axis=0)
        for site in pair.card.labels:
            if site not in found:
                continue
            obs[f"{site}_predicted"] = found[site]
            own = [f"{site}_probs[{name}]" for name in found[site].cat.categories]
            obsm[f"{site}_probs"] = found[own].set_axis(found[site].cat.categories, axis=1)
    for site in _codes_of(pair, table)[1]:
        mean, scale = codes(pair, table, site)
        obsm[f"X_{site}"], obsm[f"X_{site}_scale"] = mean.to_numpy(), scale.to_numpy()
    if not obs and not obsm:
        raise ValueError(f"{pair.card.name} has neither labels nor codes to write")
    return obs, obsm


def _codes_of(pair: Pair, table: Table) -> tuple[Table, list[str]]:
    """The rows with what is conditioned on, and the guide's continuous sites of a row."""
    table = as_fitted(pair, table)
    seen = conditioned(pair, table, None, torch.arange(len(table)))
    few = rows_of(seen.rows(torch.arange(min(PROBE, len(seen)))), pair)
    with undisturbed(pair, 0), torch.no_grad():
        trace = poutine.trace(pair.guide).get_trace(few)
    there = (name for name, site in latent_sites(trace) if is_local(site) and _is_code(site["fn"]))
    return seen, list(there)


def _is_code(factor: Any) -> bool:
    return not factor.support.is_discrete


def _has_classes(pair: Pair, site: str) -> bool:
    """Whether a label is one of classes, not a number such as the light of a face."""
    known = None if pair.schema is None else pair.schema.sites.get(site)
    return site not in pair.card.numbers and (known is None or known.kind == "label")


def _classes(pair: Pair, table: Table, site: str, count: int) -> Sequence[str]:
    """Names of a label's classes; the numbers of a label that no data have named."""
    known = pair.class_names(site) or table.classes.get(site, ())
    return known if len(known) == count else tuple(map(str, range(count)))


def _index(table: Table) -> Any:
    return None if table.row_names is None else _texts(table.row_names)


def _texts(names: Any) -> Any:
    """Names as an index that anndata writes: it has no form for those of pyarrow yet."""
    import pandas as pd

    return pd.Index(list(names), dtype=object)


def _deviation(factor: Any, like: Tensor) -> Tensor:
    try:
        deviation: Tensor = factor.stddev.expand(like.shape)
        return deviation
    except (NotImplementedError, AttributeError):
        return torch.full_like(like, torch.nan)
