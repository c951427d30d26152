"""A fitted pair's posterior of the rows of a table, as ArviZ InferenceData, and its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, check_seed, whole
from ppl_models.covariates import emptied
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior import netcdf_read, netcdf_write
from ppl_models.inference.posterior.axioms import Oracle, add_axioms, check_oracle
from ppl_models.inference.posterior.confusion import Confusion, confusions
from ppl_models.inference.posterior.groups import (
    Groups,
    Memory,
    Store,
    Variables,
    as_inference_data,
    digest,
    groups_of,
    host,
    plain_attrs,
    provenance,
    training,
)
from ppl_models.inference.posterior.known_rows import (
    add_covariates,
    at_covariates,
    constants,
    observed,
)
from ppl_models.inference.posterior.row_blocks import Rows, prior
from ppl_models.inference.posterior.rows import (
    conditioned_sites,
    positions,
    undisturbed,
)
from ppl_models.inference.posterior.support import as_fitted, of_one_kind
from ppl_models.inference.posterior.target import rows_of
from ppl_models.inference.posterior.told_alone import DIM as MODALITY
from ppl_models.inference.posterior.worlds import Do, interventions_of
from ppl_models.pair import Pair

AXIOM_ROWS = 100  # rows, the first ones, on which axioms of counterfactuals are measured


def posterior(
    pair: Pair | Sequence[Pair],
    table: Table,
    *,
    path: str | Path | None = None,
    draws: int = 200,
    prior_draws: int = 500,
    given: Sequence[str] | None = None,
    covariates: Mapping[str, Any] | None = None,
    counterfactual: Do | None = None,
    oracle: Mapping[str, Oracle] | None = None,
    rows: Sequence[int] | Tensor | None = None,
    draws_for: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    block: int | None = None,
    history: Mapping[str, Sequence[float]] | Sequence[Mapping[str, Sequence[float]]] | None = None,
    labelled: Sequence[Mapping[str, Confusion]] = (),
    attrs: Mapping[str, Any] | None = None,
) -> az.InferenceData:
    """What the guide and the model say about the rows of a table.

    The pair's mode and parameters and the global random state stay as they were.

    Args:
        pair: The pair; several of one kind, fitted from different seeds, are the chains.
        table: The rows. Only the sites in ``given`` are conditioned on; labels that are known
            besides are kept in ``constant_data``.
        path: Write to this file (netCDF4) block by block, in memory that does not grow with
            the rows; what is returned reads from it. A file of that name is replaced only
            when the new one is complete. In memory when left out.
        draws: Draws S of the guide per row.
        prior_draws: Draws from the prior; 0 for none.
        given: Sites to condition on; the card's data sites by default. Covariates always are.
        covariates: Values at which ``posterior_predictive``, ``prior`` and ``prior_predictive``
            are drawn, by covariate: a number or the name of a class for all rows, or one for each
            row of the table. By default the rows' own, which the guide is given in any case.
        counterfactual: Interventions by name, each with values of sites, such as
            ``{"thin": {"thickness": 1.5}}``: a number, the name of a class, or a list of numbers,
            one for all rows; see :meth:`ppl_models.Pair.counterfactual`.
        oracle: By cause of the card, a function of data ``(B, ...)`` that reads the cause in them,
            for the group ``axioms``; see
            :func:`ppl_models.inference.posterior.axioms.effectiveness`. By modality that rows may
            lack, one that tells a row's class from it, for the group ``modalities``; see
            :func:`ppl_models.inference.metrics.modality_scores`.
        rows: Positions in the table; all by default.
        draws_for: Those of the rows whose draws are kept; all by default. They come first.
            What is known of a row without draws (``variational``, ``diagnostics``,
            ``constant_data``) is kept for all rows.
        seed: Seed of the draws; chain c has ``seed + c``.
        block: Rows worked on at a time; by default as many as fit into a step of memory.
        history: Training curve: lists of equal length, one of them ``step``; one per chain.
        labelled: How each chain tells the labelled rows that it was trained on; see
            :func:`ppl_models.inference.posterior.confusion.labelled_rows`.
        attrs: Further attributes, such as ``objective``.

    Returns:
        Groups, with dimensions ``chain`` (1), ``draw``, ``datum`` (row numbers), ``y_class``
        (class names), ``z_dim`` and ``x_dim`` (names of columns, where the table has them), for a
        label y, a code z and data x:

        - ``posterior``: draws of every latent site from the guide, labels as integers; those
          of sites outside the data plate, which all rows share, have no ``datum``.
        - ``variational``: ``y_probs`` = q(y | x) (averaged over the draws where the guide draws
          y given another draw), and ``z_loc``, ``z_scale`` of Normal factors, by class where
          they depend on the label; by chain where there are several.
        - ``modalities``: of rows that may lack modalities, ``z_loc`` and ``z_scale`` of the code
          given each of them alone, over ``modality``; NaN where a row lacks it.
        - ``structure``: of discrete sites that all rows share, such as a graph or an assignment,
          each entry's most probable value and, as ``edge_probs``, its probability; and what
          :meth:`ppl_models.Pair.structure` gives.
        - ``sample_stats``: ``log_p``, ``log_q``, ``log_weight`` of the draws, per row, given
          what all rows share, whose own densities are ``log_p_outside``, ``log_q_outside``.
        - ``log_likelihood``: log p(x | z) of each draw, missing labels summed out; of several
          data sites one variable, ``data``, that of all together, as ``az.loo`` expects it.
        - ``log_likelihood_by_site``: where there are several, that of each given the others.
        - ``posterior_predictive``: data sites drawn anew given each draw.
        - ``counterfactual``: over a dimension ``intervention`` as well, the sites that any of the
          interventions sets or moves, as they would have been, abducted at each draw of the
          posterior; in its attributes, as JSON, the interventions (``do``), what each site
          depends on (``graph``) and what carries its noise to it (``mechanisms``).
        - ``axioms``: of a pair whose card has ``causes``, how far counterfactuals of the first
          rows are from what they should be; see :mod:`ppl_models.inference.posterior.axioms`.
        - ``prior`` and ``prior_predictive``: one new row per draw, with the covariates of a
          random row of the table.
        - ``observed_data``: what was conditioned on, for rows with draws; ``constant_data``:
          other labels (``y_true``, -1 where hidden) and where they are known (``y_mask``), and
          covariates, integers with the names of their classes (``batch_class``).
        - ``diagnostics``: per row ``khat``, ``ess_is``, ``elbo`` = mean of the log weights and
          ``iw_bound`` = log of the mean weight, in nats; by chain where there are several.
        - ``training``: the training curve over ``(chain, step)``; ``y_confusion``, labelled
          training rows by their class and the most probable one, and ``y_sure``, the mean of
          that one's probability.

        Of a pair whose rows have no evidence of data (its card's ``density``), ``sample_stats``,
        ``log_likelihood`` and ``diagnostics`` are left out, and the attribute ``no_evidence``
        says why. Of a guide that has points, whose names are in the attribute ``points``,
        ``diagnostics``, ``log_q`` and ``log_weight`` are left out.

        Draw groups that would exceed 5e7 numbers (``log_likelihood``: 1e7) hold the first of
        the draws only; how many is in the attributes ``posterior_draws`` etc.; 0 means that the
        group is left out. Under ArviZ 1 it is a DataTree.

    Raises:
        ValueError: If an option is out of range, a site is missing or hidden in a row, a value
            is outside the model's support, a latent site is neither a row's own nor sampled by
            the guide for all rows, or several pairs are not of one kind.
        OSError: If the file cannot be written, in one line; nothing is left behind.
    """
    draws, prior_draws = at_least(draws=(draws, 1), prior_draws=(prior_draws, 0))
    block = None if block is None else whole("block", block, 1)
    seed = check_seed(seed)
    pairs = of_one_kind([pair] if isinstance(pair, Pair) else pair)
    table = as_fitted(pairs[0], table)
    curve, steps = _curves(history, len(pairs))
    do = interventions_of(counterfactual)
    check_oracle(pairs[0], oracle or {})
    more = plain_attrs(attrs or {})
    index, drawn = _order(table, rows, draws_for)
    names = conditioned_sites(pairs[0], table, given, index, seed)
    anew = at_covariates(pairs[0], table, covariates)
    if covariates:
        more = {**more, "predicted_at": ", ".join(covariates)}
    task = _Task(
        pairs, table, anew, names, index, drawn, draws, prior_draws, seed, block, do, oracle
    )

    def fill(store: Store) -> None:
        groups, told = task.fill(store)
        groups.coordinates["step"] = np.asarray(steps)
        known = groups.coordinates
        told_apart = [
            {n: c for n, c in chain.items() if f"{n}_class" in known} for chain in labelled
        ]
        for site in told_apart[0] if told_apart else ():
            known[f"{site}_true_class"] = known[f"{site}_class"]
        groups.add("training", {**curve, **confusions(told_apart)})
        groups.describe({**told, **more})

    if path is None:
        memory = Memory()
        fill(memory)
        return memory.inference_data()
    netcdf_write.write(Path(path), fill)
    return load(path)


def save(idata: az.InferenceData | xr.DataTree, path: str | Path) -> None:
    """Write InferenceData to netCDF4 (HDF5), some rows at a time.

    A file of that name is replaced only when the new one is complete. Integers and masks are
    compressed; floating draws are not: their digits are random, so that gzip takes 20 times
    longer for a tenth of the size.

    Coordinates and attributes are kept, dates, truth values and text with gaps as xarray keeps
    them: plain xarray reads all of it alike. A truth value among attributes becomes 0 or 1, a
    list of one entry that entry, text without value NaN.

    Raises:
        ValueError: Naming the group, variable or attribute that netCDF cannot hold, before the
            file is written.
        OSError: In one line, if the folder is missing, cannot be written or is full; nothing
            is left behind.
    """
    if isinstance(idata, xr.DataTree):
        _check_flat(idata)
    try:
        groups, attrs = netcdf_write.contents(groups_of(idata), idata.attrs)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from None
    netcdf_write.write(Path(path), lambda file: netcdf_write.copy(groups, attrs, file))


def _check_flat(tree: xr.DataTree) -> None:
    flat = "expected groups of arrays below the root"
    if tree.data_vars:
        raise ValueError(f"variable {next(iter(tree.data_vars))!r} stands in no group, {flat}")
    for name, node in tree.children.items():
        if node.children:
            raise ValueError(f"group {name!r} holds group {next(iter(node.children))!r}, {flat}")


def load(path: str | Path) -> az.InferenceData:
    """Read a file of :func:`posterior` or :func:`save`; arrays are read when they are used.

    Plain xarray reads it, too: ``xarray.open_datatree(path, engine="h5netcdf")``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no netCDF4 file, is damaged, leads to other files, or claims more
            numbers than it can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an InferenceData (.nc)")
    try:
        found = netcdf_read.read(path)
        if found is not None:
            return as_inference_data(*found)
        return az.from_netcdf(str(path.absolute()), engine="h5netcdf")
    except MemoryError:
        raise
    except Exception as error:  # damaged files make h5py and xarray raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or no netCDF4 file ({reason})") from None


@dataclass(frozen=True)
class _Task:
    """What is to be exported: fields as the options of :func:`posterior`.

    Attributes:
        anew: The same rows with the covariates that data are drawn anew at.
        names: The sites that are conditioned on.
        index: The rows ``(n,)``, those with draws first.
        drawn: How many have draws.
    """

    pairs: list[Pair]
    table: Table
    anew: Table
    names: tuple[str, ...]
    index: Tensor
    drawn: int
    draws: int
    prior_draws: int
    seed: int
    block: int | None
    do: Do
    oracle: Mapping[str, Oracle] | None = None

    def fill(self, store: Store) -> tuple[Groups, dict[str, Any]]:
        """Write all groups but the training curve; returns the attributes, too."""
        # Labels are few numbers per row; what is conditioned on may be more than memory holds.
        labels = self.table.only(*self.table.classes).rows(self.index)
        for chain, pair in enumerate(self.pairs):
            with undisturbed(pair, self.seed + chain), torch.no_grad():
                work = self._work(pair)
                if not chain:
                    chains, columns = len(self.pairs), self.table.columns
                    groups = Groups(labels, work.sites, store, chains, self.drawn, columns)
                    if apart := [name for name in pair.may_lack if name in self.names]:
                        groups.coordinates[MODALITY] = np.array(apart)
                    if work.worlds is not None:
                        groups.coordinates["intervention"] = np.array(list(self.do))
                        groups.told["counterfactual"] = work.worlds.attributes()
                self._add(groups, work, chain)
        groups.add("constant_data", constants(labels, self.names))
        sites, seen = work.sites, self.table.only(*self.names)
        told = provenance(self.pairs[0], seen, sites, "svi", self.seed, {})
        told["rows_sha256"] = digest(self.table.numbers[self.index])
        told["sampled_variables"] = [*work.outside.sites, *sites.latents]
        if causes := self.pairs[0].card.causes:
            few = self._batch(self.pairs[0], self.index[:AXIOM_ROWS])
            reads = {name: read for name, read in (self.oracle or {}).items() if name in causes}
            told |= add_axioms(groups, self.pairs[0], few, self.seed, reads)
        if work.reason:
            told["no_evidence"] = work.reason
        if sites.points:
            told["points"] = ", ".join(sites.points)
        sizes = {f"{g}_draws": n for g, n in work.kept.items() if g != "sample_stats"}
        return groups, {**told, **sizes}

    def _work(self, pair: Pair) -> Rows:
        few = self._batch(pair, self.index[:2])
        return Rows.of(pair, few, self.draws, self.drawn, self.do, self.oracle)

    def _add(self, groups: Groups, work: Rows, chain: int) -> None:
        block = self.block or work.rows_at_a_time
        for start, stop in _spans(self.drawn, len(self.index), block):
            index, has_draws = self.index[start:stop], start < self.drawn
            rows = work if has_draws else work.without_draws()
            batch = self._batch(work.pair, index)
            anew = batch if self.anew is self.table else self._batch(work.pair, index, self.anew)
            for group, variables in rows.block(batch, anew).items():
                groups.add(group, self._by_chain(variables), chain, start)
            if not chain:
                seen = self.table.only(*self.names).rows(index)
                if has_draws:
                    model = work.outside.at(0).model
                    known = observed(work.pair, seen, work.sites, model)
                    groups.add("observed_data", known, row=start)
                add_covariates(groups, work.pair, seen, start)
        groups.add("posterior", work.outside.posterior(), chain)
        if not work.reason:
            groups.add("sample_stats", work.outside.stats(), chain)
        groups.add("variational", self._by_chain(work.outside.parameters), chain)
        shared = {n: (dims, host(v)) for n, (dims, v) in work.pair.structure().items()}
        for dim in {d for dims, _ in shared.values() for d in dims} & self.table.classes.keys():
            groups.coordinates.setdefault(dim, np.array(self.table.classes[dim]))
        shared = {**work.outside.structure, **shared}
        groups.add("structure", self._by_chain(shared), chain)
        story = prior(
            work.pair, work.sites, work.outside, self.prior_draws, self._prior_rows(work.pair)
        )
        for group, variables in story.items():
            groups.add(group, variables, chain)

    def _prior_rows(self, pair: Pair) -> Batch | None:
        """The covariates of a random row for each draw from the prior; None without covariates."""
        if not pair.card.covariates or not self.prior_draws:
            return None
        index = self.index[torch.randint(len(self.index), (self.prior_draws,))]
        return emptied(pair, self._batch(pair, index, self.anew))

    def _batch(self, pair: Pair, index: Tensor, table: Table | None = None) -> Batch:
        table = self.table if table is None else table
        return rows_of(table.only(*self.names).rows(index), pair)

    def _by_chain(self, variables: Variables) -> Variables:
        """With a dimension for chains, where there are several."""
        if len(self.pairs) == 1:
            return variables
        return {
            name: (dims, array) if "chain" in dims else (("chain", *dims), array[None])
            for name, (dims, array) in variables.items()
        }


def _curves(history: Any, chains: int) -> tuple[Variables, list[float]]:
    histories = [history] if isinstance(history, Mapping) else list(history or [])
    if not any(histories):
        return {}, []
    if len(histories) != chains:
        raise ValueError(f"{len(histories)} histories, expected one for each of {chains} chains")
    return training(histories)


def _order(table: Table, rows: Any, draws_for: Any) -> tuple[Tensor, int]:
    """Positions of the rows, those first whose draws are kept, and how many these are."""
    index = positions(table, rows)
    if draws_for is None:
        return index, len(index)
    chosen = positions(table, draws_for)
    missing = chosen[~torch.isin(chosen, index)]
    if len(missing):
        raise ValueError(f"draws_for has row {int(missing[0])}, expected some of the rows")
    return torch.cat([chosen, index[~torch.isin(index, chosen)]]), len(chosen)


def _spans(drawn: int, rows: int, block: int) -> Iterator[tuple[int, int]]:
    """Blocks, none of which has rows with draws and rows without."""
    for first, last in ((0, drawn), (drawn, rows)):
        for start in range(first, last, block):
            yield start, min(start + block, last)
