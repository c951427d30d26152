"""A fitted pair's posterior of the rows of a table, as ArviZ InferenceData, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.files import write_atomically
from ppl_models.inference import diagnostics
from ppl_models.inference.export_draws import draw_data, draw_guide, guide_parameters, score
from ppl_models.inference.export_groups import (
    SAMPLE,
    Array,
    Groups,
    Variables,
    constants,
    event_dims,
    host,
    observations,
    plain_attr,
    provenance,
    training,
)
from ppl_models.inference.export_sites import (
    Sites,
    conditioned,
    find_sites,
    positions,
    undisturbed,
)
from ppl_models.pair import Pair

# Most numbers that a group of draws holds; it keeps fewer draws where there would be more.
# A label summed out in the log-likelihood costs a decoder call per class, which is counted.
POSTERIOR_CELLS = PREDICTIVE_CELLS = 50_000_000
LIKELIHOOD_CELLS = 10_000_000
KHAT_ROWS = 10_000  # rows whose k-hat is computed; a millisecond each


def posterior(
    pair: Pair,
    table: Table,
    *,
    draws: int = 200,
    prior_draws: int = 500,
    given: Sequence[str] | None = None,
    rows: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    block: int = 500,
    history: Mapping[str, Sequence[float]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> az.InferenceData:
    """What the guide and the model say about the rows of a table.

    The pair's mode and parameters and the global random state stay as they were.

    Args:
        pair: The pair.
        table: The rows. Only the sites in ``given`` are conditioned on; labels that are known
            besides are kept in ``constant_data``.
        draws: Draws S of the guide per row.
        prior_draws: Draws from the prior; 0 for none.
        given: Sites to condition on; the card's data sites by default.
        rows: Positions in the table; all by default.
        seed: Seed of the draws.
        block: Rows worked on at a time.
        history: Training curve: lists of equal length, one of them ``step``.
        attrs: Further attributes, such as ``objective``.

    Returns:
        Groups, with dimensions ``chain`` (1), ``draw``, ``datum`` (row numbers), ``y_class``
        (class names) and ``z_dim``, for a label y and a code z:

        - ``posterior``: draws of every latent site from the guide, labels as integers.
        - ``variational``: ``y_probs`` = q(y | x) (averaged over the draws where the guide draws
          y given another draw), and ``z_loc``, ``z_scale`` of Normal factors, by class where
          they depend on the label.
        - ``sample_stats``: ``log_p``, ``log_q``, ``log_weight`` of the draws, per row.
        - ``log_likelihood``: log p(x | z) of each draw, missing labels summed out.
        - ``posterior_predictive``: data sites drawn anew given each draw.
        - ``prior`` and ``prior_predictive``: one new row per draw.
        - ``observed_data``: what was conditioned on; ``constant_data``: other labels
          (``y_true``, -1 where hidden) and where they are known (``y_mask``).
        - ``diagnostics``: per row ``khat``, ``ess_is``, ``elbo`` = mean of the log weights and
          ``iw_bound`` = log of the mean weight, in nats.
        - ``training``: the training curve over ``(chain, step)``.

        Draw groups that would exceed 5e7 numbers (``log_likelihood``: 1e7) hold the first of
        the draws only; how many is in the attributes ``posterior_draws`` etc.; 0 means that the
        group is left out.

    Raises:
        ValueError: If an option is out of range, a site is missing or hidden in a row, a value
            is outside the model's support, or a latent site is not a row's own.
    """
    for name, value, least in (
        ("draws", draws, 1),
        ("prior_draws", prior_draws, 0),
        ("block", block, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    curve, steps = training(history)
    more = {name: plain_attr(value) for name, value in (attrs or {}).items()}
    index = positions(table, rows)
    with undisturbed(pair, seed), torch.no_grad():
        seen = conditioned(pair, table, given, index)
        sites = find_sites(pair, _batch(pair, seen, 0, min(2, len(seen))))
        store = _Store(sites, draws, len(seen))
        groups = Groups(table.rows(index), sites)
        parameters: list[Variables] = []
        for start in range(0, len(seen), block):
            batch = _batch(pair, seen, start, min(start + block, len(seen)))
            parameters.append(_variational(pair, batch, sites))
            _fill(store, pair, batch, sites, start)
        priors = _prior(pair, batch, sites, prior_draws)
    sizes = store.add_to(groups)
    groups.add("variational", {**store.label_probs(), **_joined(parameters)})
    for name, variables in priors.items():
        groups.add(name, variables)
    groups.add("observed_data", observations(seen))
    groups.add("constant_data", constants(table.rows(index), list(seen.sites)))
    groups.coordinates["step"] = np.asarray(steps)
    groups.add("training", curve)
    return groups.finish({**provenance(pair, seen, sites, "svi", seed, more), **sizes})


def save(idata: az.InferenceData, path: str | Path) -> None:
    """Write netCDF4 (HDF5); a file of that name is replaced only when the new one is complete.

    Integers and masks are compressed; floating draws are not: their digits are random, so that
    gzip takes 20 times longer for a tenth of the size.

    Raises:
        OSError: In one line, if the folder is missing, cannot be written or is full; nothing
            is left behind.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: {path.parent} is no folder")
    tree = idata.to_datatree()
    encoding = {
        f"/{name}": {
            v: {"zlib": True, "complevel": 4, "shuffle": True}
            for v, values in group.data_vars.items()
            if values.dtype.kind in "iub"
        }
        for name, group in idata.items()
    }

    # Built in memory: HDF5 that fails to write on a full disk keeps handles whose clean-up
    # crashes the interpreter.
    image = tree.to_netcdf(engine="h5netcdf", encoding=encoding)
    try:
        write_atomically(path, lambda temporary: _write(temporary, image))
    except OSError as error:
        if str(error).startswith("cannot write"):
            raise
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def _write(path: Path, image: Any) -> None:
    path.write_bytes(image)


def load(path: str | Path) -> az.InferenceData:
    """Read what :func:`save` wrote; arrays are read from the file when they are used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF4 file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an InferenceData (.nc)")
    try:
        return az.from_netcdf(str(path), engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or no netCDF4 file ({str(error).splitlines()[0]})"
        ) from None


class _Store:
    """Arrays of all rows, filled block by block; draws beyond a group's limit are dropped."""

    def __init__(self, sites: Sites, draws: int, rows: int) -> None:
        self.sites, self.draws, self.rows = sites, draws, rows
        latent, data = sites.latents.values(), sites.data.values()
        classes = sites.classes(sites.labels)
        per_draw = {
            "posterior": (POSTERIOR_CELLS, sum(math.prod(s.shape) for s in latent)),
            "posterior_predictive": (PREDICTIVE_CELLS, sum(math.prod(s.shape) for s in data)),
            "log_likelihood": (LIKELIHOOD_CELLS, classes * len(sites.data)),
        }
        self.kept = {
            group: min(draws, limit // max(1, rows * cells))
            for group, (limit, cells) in per_draw.items()
        }
        self.kept["posterior"] = max(1, self.kept["posterior"])
        self.kept["sample_stats"] = draws
        self.arrays: dict[tuple[str, str], Array] = {}
        self.probs: dict[str, Array] = {}

    def put(self, group: str, name: str, value: Tensor, draw: int, row: int) -> None:
        """Values ``(S', B, ...)`` of the draws from ``draw`` and rows from ``row`` on."""
        kept = self.kept[group]
        if draw >= kept:
            return
        key = (group, name)
        array = host(value)
        if key not in self.arrays:
            self.arrays[key] = np.empty((kept, self.rows, *array.shape[2:]), array.dtype)
        part = array[: kept - draw]
        self.arrays[key][draw : draw + len(part), row : row + part.shape[1]] = part

    def add_probs(self, label: str, probs: Tensor, row: int) -> None:
        """Add a label's probabilities ``(B, C)``, summed over some draws."""
        array = host(probs)
        if label not in self.probs:
            self.probs[label] = np.zeros((self.rows, array.shape[1]))
        self.probs[label][row : row + len(array)] += array

    def label_probs(self) -> Variables:
        """The guide's label probabilities, in the precision of its other numbers."""
        dtype = self.arrays["sample_stats", "log_p"].dtype
        return {
            f"{label}_probs": (("datum", f"{label}_class"), (total / self.draws).astype(dtype))
            for label, total in self.probs.items()
        }

    def add_to(self, groups: Groups) -> dict[str, int]:
        """Add all draws and their diagnostics; returns the number of draws by group."""
        known = {**self.sites.data, **self.sites.latents}
        for group in self.kept:
            values = {name: array for (g, name), array in self.arrays.items() if g == group}
            has_event = group in ("posterior", "posterior_predictive")
            groups.add(
                group,
                {
                    name: (
                        (*SAMPLE, "datum", *(event_dims(known[name]) if has_event else ())),
                        array[None],
                    )
                    for name, array in values.items()
                },
            )
        weights = self.arrays["sample_stats", "log_weight"]
        found = diagnostics.per_row(weights, KHAT_ROWS)
        groups.add("diagnostics", {name: (("datum",), value) for name, value in found.items()})
        return {f"{g}_draws": self.kept[g] for g in self.kept if g != "sample_stats"}


def _batch(pair: Pair, table: Table, start: int, stop: int) -> Batch:
    # Each row counts once: the size of the plate is the rows of the block.
    like = pair.like()
    (batch,) = table.batches(torch.arange(start, stop))
    return Batch(batch, batch.rows).to(like.device, like.dtype)


def _fill(store: _Store, pair: Pair, batch: Batch, sites: Sites, row: int) -> None:
    """Draw and score one block of rows, some draws at a time."""
    draw = 0
    while draw < store.draws:
        scored = draw < store.kept["log_likelihood"]
        # Sites only the model has must be summed out; the guide's, for the likelihood.
        labels = [n for n in sites.labels if scored or n not in sites.guided]
        stop = store.kept["log_likelihood"] if scored else store.draws
        count = min(sites.draws_at_a_time(pair, batch.count, labels), stop - draw)
        q = draw_guide(pair.guide, batch, sites, count)
        places = {n: sites.latents[n].places(q.values[n]) for n in q.probs}
        fixed = {name: value for name, value in q.values.items() if name not in labels}
        scores = score(pair.model, batch, fixed, labels, count)
        joint = scores.at(places)
        log_p = joint.marginal()
        places |= joint.draw()
        for name, value in (("log_p", log_p), ("log_q", q.log_q), ("log_weight", log_p - q.log_q)):
            store.put("sample_stats", name, value, draw, row)
        for name in sites.latents:
            store.put(
                "posterior", name, places[name] if name in places else q.values[name], draw, row
            )
        for name, value in scores.log_likelihood().items():
            store.put("log_likelihood", name, value, draw, row)
        for label, probs in q.probs.items():
            store.add_probs(label, count * probs, row)
        if draw < store.kept["posterior_predictive"]:
            values = dict(q.values)
            for name in set(places) - set(values):
                values[name] = sites.latents[name].values()[places[name]]
            new = draw_data(pair.model, batch.without(*pair.card.data), values, count)
            for name in sites.data:
                if name in new:
                    value = sites.data[name].stored(new[name])
                    store.put("posterior_predictive", name, value, draw, row)
        draw += count


def _variational(pair: Pair, batch: Batch, sites: Sites) -> Variables:
    found: Variables = {}
    for name, (labels, loc, scale) in guide_parameters(pair.guide, batch, sites).items():
        dims = ("datum", *(f"{label}_class" for label in labels), *event_dims(sites.latents[name]))
        found[f"{name}_loc"], found[f"{name}_scale"] = (dims, host(loc)), (dims, host(scale))
    return found


def _joined(blocks: list[Variables]) -> Variables:
    return {
        name: (dims, np.concatenate([block[name][1] for block in blocks]))
        for name, (dims, _) in blocks[0].items()
    }


def _prior(pair: Pair, batch: Batch, sites: Sites, draws: int) -> dict[str, Variables]:
    """One new row per draw from the story, nothing observed."""
    if not draws:
        return {}
    like = pair.like()
    empty = Batch({}, torch.arange(draws, device=like.device))
    new = draw_data(pair.model, empty, {}, 1)
    groups: dict[str, Variables] = {"prior": {}, "prior_predictive": {}}
    for name, site in {**sites.data, **sites.latents}.items():
        group = "prior_predictive" if name in pair.card.data else "prior"
        # The one draw per row comes first: it is the chain.
        groups[group][name] = ((*SAMPLE, *event_dims(site)), host(site.stored(new[name])))
    return groups
