"""Components of a mixture put in one order, where each draw may have them in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from ppl_models.config import names, unknown
from ppl_models.inference.posterior.groups import SAMPLE, Array, groups_of, with_groups

FIXED = {*SAMPLE, "datum"}  # dimensions that no component runs over


def relabelled(
    idata: az.InferenceData,
    by: str,
    *,
    coordinate: int | str | Sequence[int | str] | None = None,
    components: str | None = None,
    along: Sequence[str] | None = None,
) -> az.InferenceData:
    """Draws whose components rise, in every draw, by one number of theirs.

    The posterior of a mixture does not tell its components apart: chains, and draws of a chain,
    have them in any order, which R-hat takes for chains that disagree. In an order of their own
    they can be compared. It is the posterior of the same model in which this order is given
    beforehand, and says nothing of the components where their numbers are not well apart.

    What moves with the components are all variables of ``posterior`` over the same dimension and,
    told by their size, those outside the rows, and one label, whose classes the components are,
    with its probabilities. Where sizes cannot tell, ``along`` must.

    Args:
        idata: Draws, such as those of :func:`ppl_models.inference.nuts`.
        by: The variable of ``posterior`` that orders them, such as ``"means"``.
        coordinate: Which number of a component, where it has several: its place, or its name, in
            each further dimension of the variable.
        components: The dimension that the components run over, where the variable has several;
            by default the first.
        along: Further variables that move with them; by default by their size. A label has its
            probabilities with it.

    Returns:
        The same groups with another ``posterior``, and without the variables of ``variational``
        that the old order belonged to.

    Raises:
        ValueError: If there is no such variable, dimension or coordinate, or the sizes do not
            tell what moves, in one line that says how to.
    """
    groups = groups_of(idata)
    if "posterior" not in groups or by not in groups["posterior"]:
        found = groups.get("posterior", xr.Dataset()).data_vars
        raise ValueError(unknown("variable of posterior", by, map(str, found)))
    posterior = groups["posterior"]
    key, dim = _key(posterior[by], by, coordinate, components)
    moved = _moved(groups, by, dim, along)
    order = np.argsort(key.values, -1, kind="stable")  # place in the new order: old component
    changed = {}
    for name, own in moved.items():
        values = posterior[name]
        if own is None:  # a label, whose value is a component
            changed[name] = values.copy(data=_renamed(values, order))
        else:
            changed[name] = values.copy(data=_taken(values, own, order))
    whole = posterior.assign(changed)
    whole.attrs["relabelled_by"] = by if coordinate is None else f"{by}, {coordinate}"
    kept = {"posterior": whole}
    if "variational" in groups:
        gone = [n for n in groups["variational"].data_vars if _site(str(n)) in map(_site, moved)]
        kept["variational"] = groups["variational"].drop_vars(gone)
    return with_groups(idata, **kept)


def _key(
    values: xr.DataArray, by: str, coordinate: Any, components: str | None
) -> tuple[xr.DataArray, str]:
    """What orders the components, ``(chain, draw, K)``, and their dimension."""
    own = [str(dim) for dim in values.dims if dim not in FIXED]
    if not set(SAMPLE) <= set(values.dims) or "datum" in values.dims or not own:
        raise ValueError(
            f"{by!r} runs over {', '.join(map(str, values.dims))}, expected chain, draw and "
            "components, and no rows"
        )
    dim = own[0] if components is None else components
    if dim not in own:
        raise ValueError(unknown(f"dimension of {by!r}", dim, own))
    rest = [name for name in own if name != dim]
    several = isinstance(coordinate, Sequence) and not isinstance(coordinate, str)
    places: list[Any] = list(coordinate) if several else [coordinate] * (coordinate is not None)
    if len(places) != len(rest):
        sizes = ", ".join(f"{name} ({values.sizes[name]})" for name in rest) or "none"
        raise ValueError(
            f"{by!r} has besides {dim} the dimensions: {sizes}; expected in coordinate= a place "
            f"in each, got {coordinate!r}"
        )
    for name, place in zip(rest, places, strict=True):
        known = values.indexes[name].tolist() if name in values.indexes else []
        if isinstance(place, str):
            if place not in known:
                raise ValueError(unknown(f"coordinate of {name}", place, map(str, known)))
            place = known.index(place)
        if isinstance(place, bool) or not 0 <= int(place) < values.sizes[name]:
            raise ValueError(
                f"coordinate {place!r} is outside {name}, expected 0 to {values.sizes[name] - 1}"
            )
        values = values.isel({name: int(place)})
    key = values.transpose(*SAMPLE, dim)
    if not bool(np.isfinite(key).all()):
        raise ValueError(f"{by!r} has draws that are not finite, by which nothing can be ordered")
    return key, dim


def _moved(
    groups: dict[str, xr.Dataset], by: str, dim: str, along: Sequence[str] | None
) -> dict[str, str | None]:
    """By variable that moves, its dimension of components; None of a label."""
    posterior = groups["posterior"]
    size = posterior.sizes[dim]
    labels = {
        str(d).removesuffix("_class"): str(d)
        for d in posterior.dims
        if str(d).endswith("_class") and str(d).removesuffix("_class") in posterior
    }
    shared = {str(n): dim for n, values in posterior.data_vars.items() if dim in values.dims}
    if along is not None:
        wanted = [by, *((along,) if isinstance(along, str) else names("along", along))]
        for name in wanted:
            if name not in posterior:
                raise ValueError(unknown("variable of along", name, map(str, posterior.data_vars)))
        wanted += [f"{name}_probs" for name in wanted if name in labels]
    else:
        wanted = [n for n in map(str, posterior.data_vars) if n not in shared]
        _check_sizes_tell(groups, by, dim, labels)
    moved: dict[str, str | None] = dict(shared)
    for name in wanted:
        if name in moved:
            continue
        values = posterior[name]
        own = [str(d) for d in values.dims if d not in FIXED and values.sizes[d] == size]
        if name in labels and posterior.sizes[labels[name]] == size:
            moved[name] = None
        elif len(own) == 1:
            moved[name] = own[0]
        elif along is not None:
            raise ValueError(
                f"{name!r} has {len(own)} dimensions of {size} entries, as many as there are "
                f"components along {dim}, expected one"
            )
    return moved


def _check_sizes_tell(
    groups: dict[str, xr.Dataset], by: str, dim: str, labels: dict[str, str]
) -> None:
    """Refuse sizes that are those of the components by chance, or may be."""
    posterior, size = groups["posterior"], groups["posterior"].sizes[dim]

    def has(values: xr.DataArray) -> int:
        return sum(values.sizes[d] == size for d in values.dims if d not in {*FIXED, dim})

    doubt = [f"label {n!r}" for n, d in labels.items() if posterior.sizes[d] == size][1:]
    for name, values in posterior.data_vars.items():
        probs = str(name).removesuffix("_probs") in labels and str(name).endswith("_probs")
        if has(values) and (
            dim in values.dims or has(values) > 1 or ("datum" in values.dims and not probs)
        ):
            doubt.append(f"{str(name)!r}")
    doubt += [
        f"data {str(n)!r}" for n, v in groups.get("observed_data", xr.Dataset()).items() if has(v)
    ]
    if doubt:
        raise ValueError(
            f"{', '.join(doubt)} {'has' if len(doubt) == 1 else 'have'} {size} entries, too, as "
            f"the components of {by!r} along {dim} have: name what moves with them, "
            "along=(...), such as their weights and the label; () for nothing"
        )


def _renamed(values: xr.DataArray, order: Array) -> Array:
    """A label's values as places in the new order; what is no component stays."""
    place = np.argsort(order, -1)
    first = values.transpose(*SAMPLE, ...)
    array = first.values
    flat = array.reshape(*array.shape[:2], -1)
    valid = (flat >= 0) & (flat < order.shape[-1])
    new = np.take_along_axis(place, np.where(valid, flat, 0).astype(int), -1)
    whole = np.where(valid, new, flat).astype(array.dtype).reshape(array.shape)
    found: Array = first.copy(data=whole).transpose(*values.dims).values
    return found


def _taken(values: xr.DataArray, dim: str, order: Array) -> Array:
    first = values.transpose(*SAMPLE, dim, ...)
    index = order.reshape(*order.shape, *[1] * (first.ndim - 3))
    whole = np.take_along_axis(first.values, index, 2)
    found: Array = first.copy(data=whole).transpose(*values.dims).values
    return found


def _site(variable: str) -> str:
    """The site of a variable of ``variational``."""
    for end in ("_probs", "_loc", "_scale"):
        variable = variable.removesuffix(end)
    return variable
