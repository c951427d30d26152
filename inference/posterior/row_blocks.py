"""One block of rows: draws, their densities and sums over labels, and what is known of a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.covariates import empty
from ppl_models.inference.posterior import importance_weights
from ppl_models.inference.posterior.axioms import Oracle
from ppl_models.inference.posterior.density import no_evidence
from ppl_models.inference.posterior.draws import (
    GuideDraws,
    draw_data,
    draw_guide,
    guide_parameters,
    log_likelihoods,
    score,
)
from ppl_models.inference.posterior.groups import (
    POSTERIOR_CELLS,
    PREDICTIVE_CELLS,
    SAMPLE,
    Array,
    Variables,
    event_dims,
    host,
)
from ppl_models.inference.posterior.rows import (
    Site,
    Sites,
    elements_there,
    find_sites,
    with_gaps,
)
from ppl_models.inference.posterior.shared_sites import Outside, draw_outside
from ppl_models.inference.posterior.target import rows_at_a_time
from ppl_models.inference.posterior.told_alone import told_alone
from ppl_models.inference.posterior.worlds import Do, Worlds
from ppl_models.inference.traces.sites import Program
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.quiet import quiet

LIKELIHOOD_CELLS = 10_000_000
LEAST_BLOCK, MOST_BLOCK = 512, 8192  # rows worked on at a time


@dataclass(frozen=True)
class Rows:
    """How the rows of one fitted pair are exported.

    Attributes:
        pair: The pair.
        sites: The random variables of a row.
        outside: Draws of those that all rows share.
        draws: Draws S per row.
        kept: How many of them each group keeps.
        reason: Why rows have no evidence; empty where they have one.
        worlds: Interventions whose counterfactuals are drawn, if any.
        oracle: By modality, what tells a row's class from it.
    """

    pair: Pair
    sites: Sites
    outside: Outside
    draws: int
    kept: Mapping[str, int]
    reason: str = ""
    worlds: Worlds | None = None
    oracle: Mapping[str, Oracle] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pair: Pair,
        few: Batch,
        draws: int,
        drawn: int,
        do: Do | None = None,
        oracle: Mapping[str, Oracle] | None = None,
    ) -> Rows:
        """How a pair's rows are exported.

        Args:
            pair: The pair.
            few: Two of the rows, with what is conditioned on.
            draws: Draws S per row.
            drawn: Rows whose draws are kept.
            do: Interventions by name, whose counterfactuals are drawn.
            oracle: By cause or modality; those of modalities are asked row by row.
        """
        worlds = Worlds.of(pair, few, do) if do else None
        outside = draw_outside(pair, few, draws)
        sites = find_sites(pair, few, program=outside.at(0))
        limits = {
            "posterior": POSTERIOR_CELLS,
            "posterior_predictive": PREDICTIVE_CELLS,
            "log_likelihood": LIKELIHOOD_CELLS,
        }
        kept = capacity(sites, draws, drawn, limits)
        if worlds is not None:
            cells = sum(math.prod(s.shape) for s in worlds.stored(sites).values()) * len(worlds.do)
            kept["counterfactual"] = min(draws, PREDICTIVE_CELLS // max(1, drawn * cells))
        if reason := no_evidence(pair, few):
            kept |= {"log_likelihood": 0, "sample_stats": 0}
        if len(sites.data) > 1:
            kept["log_likelihood_by_site"] = kept["log_likelihood"]
        asked = {name: read for name, read in (oracle or {}).items() if name in pair.may_lack}
        return cls(pair, sites, outside, draws, kept, reason, worlds, asked)

    @property
    def rows_at_a_time(self) -> int:
        """Rows whose widest layer fits into a step of memory, for all draws of a step."""
        at_once = 1 if self.outside.sites else self.draws
        fit = rows_at_a_time(self.pair, self.sites, self.sites.labels, at_once)
        # Powers of two divide into HDF5 chunks of any size.
        return 1 << (min(max(fit, LEAST_BLOCK), MOST_BLOCK).bit_length() - 1)

    def without_draws(self) -> Rows:
        """The same for rows whose draws are not kept."""
        return replace(self, kept=dict.fromkeys(self.kept, 0))

    def block(self, batch: Batch, anew: Batch) -> dict[str, Variables]:
        """All groups of a block of rows, as parts of one chain.

        Args:
            batch: The rows, each counting once.
            anew: The same rows with the covariates that data are drawn anew at.
        """
        parts = _Parts(self.kept)
        for program, labels, q in self._turns(batch):
            values = self._draw(parts, program, batch, anew, labels, q)
            self._imagine(parts, batch, values)
            parts.draw += q.draws
        with quiet(batch.rows.device):
            there = again = self._there(batch)
            if anew is not batch:  # what a row has not has no code to be drawn anew by
                again = {name: mask & there[name] for name, mask in self._there(anew).items()}
            return self._groups(parts, batch, there, again)

    def _there(self, batch: Batch) -> dict[str, Tensor]:
        found = elements_there(self.outside.at(0).model, batch, self.sites)
        return {name: mask.cpu() for name, mask in found.items()}

    def label_probs(self, batch: Batch, label: str) -> Array:
        """The probabilities ``(B, plates, C)`` of a label as :meth:`block` has them, and no more.

        Of a label that the guide leaves to the model, the mean over the draws of those that
        :meth:`block` draws it by.
        """
        total: Array | int = 0
        for program, _, q in self._turns(batch):
            if label in q.probs:
                total = total + q.draws * host(q.probs[label])
                continue
            left = [name for name in self.sites.labels if name not in self.sites.guided]
            scores = score(program.model, batch, q.values, left, q.draws, self.sites.nesting)
            found = self.sites.latents[label].by_row(scores.probs(label), 1)
            total = total + host(found.double().sum(0))
        mean: Array = np.asarray(total / self.draws)
        return mean

    def _turns(self, batch: Batch) -> Iterator[tuple[Program, list[str], GuideDraws]]:
        """Draws of the guide, as many at a time as fit, and the labels to list at them.

        What else is drawn meanwhile has a seed of its own, and leaves the guide's draws as they
        are: probabilities of labels are the same numbers with and without the rest.
        """
        shared = bool(self.outside.sites)
        draw = 0
        while draw < self.draws:
            scored = draw < self.kept["log_likelihood"]
            # Sites only the model has must be summed out; the guide's, for the likelihood.
            labels = [n for n in self.sites.labels if scored or n not in self.sites.guided]
            stop = self.kept["log_likelihood"] if scored else self.draws
            most = self.sites.draws_at_a_time(self.pair, batch.count, labels)
            count = 1 if shared else min(most, stop - draw)
            program = self.outside.at(draw)
            q = draw_guide(program.guide, batch, self.sites, count)
            with quiet(batch.rows.device, int(torch.randint(1 << 62, ()))):
                yield program, labels, q
            draw += count

    def _draw(
        self,
        parts: _Parts,
        program: Program,
        batch: Batch,
        anew: Batch,
        labels: list[str],
        q: GuideDraws,
    ) -> dict[str, Tensor]:
        """Draws of all that depends on them; returns those of the latent sites."""
        sites, count = self.sites, q.draws
        places = {n: sites.latents[n].places(q.values[n]) for n in q.probs}
        fixed = {name: value for name, value in q.values.items() if name not in labels}
        scores = score(program.model, batch, fixed, labels, count, sites.nesting)
        joint = scores.at(places)
        log_p = joint.marginal()
        places |= joint.draw()
        weights = log_p - q.log_q
        parts.dtype = host(weights[:0]).dtype
        if not sites.points:
            parts.weights.append(host(weights))
        for label, probs in q.probs.items():
            parts.probs[label] = parts.probs.get(label, 0) + count * host(probs)
        if not self.kept["posterior"]:
            return {}
        told = {"log_p": log_p}
        if not sites.points:  # the density at a point of the guide's is no weight
            told |= {"log_q": q.log_q, "log_weight": weights}
        for name, value in told.items():
            parts.put("sample_stats", name, value)
        for name, site in sites.latents.items():
            stored = site.by_row(places[name]) if name in places else site.stored(q.values[name])
            parts.put("posterior", name, stored)
        for group, found in log_likelihoods(scores).items():
            for name, value in found.items():
                parts.put(group, name, value)
        values = dict(q.values)
        for name in set(places) - set(values):
            values[name] = sites.latents[name].values()[places[name]]
        few = min(count, self.kept["posterior_predictive"] - parts.draw)
        if few > 0:
            first = {name: value[:few] for name, value in values.items()}
            seen = anew.without(*self.pair.card.data, *map(mark, self.pair.may_lack))
            new = draw_data(program.model, seen, first, few, sites.nesting)
            for name in sites.data:
                if name in new:
                    value = sites.data[name].stored(new[name])
                    parts.put("posterior_predictive", name, value)
        return values

    def _imagine(self, parts: _Parts, batch: Batch, values: Mapping[str, Tensor]) -> None:
        """Counterfactuals at the same draws."""
        few = self.kept.get("counterfactual", 0) - parts.draw
        if self.worlds is None or few <= 0:
            return
        shared = {name: value[parts.draw] for name, value in self.outside.values.items()}
        first = {name: value[:few] for name, value in values.items()}
        for name, value in self.worlds.draw(batch, first, shared, self.sites).items():
            parts.put("counterfactual", name, value)

    def _groups(
        self,
        parts: _Parts,
        batch: Batch,
        there: Mapping[str, Tensor],
        again: Mapping[str, Tensor],
    ) -> dict[str, Variables]:
        known = {**self.sites.data, **self.sites.latents}
        groups: dict[str, Variables] = {}
        for (group, name), arrays in parts.arrays.items():
            has_event = group in ("posterior", "posterior_predictive", "counterfactual")
            event = event_dims(known[name]) if has_event else ()
            whole = np.concatenate(arrays)[None]
            kept = (again if group == "posterior_predictive" else there).get(name)
            if has_event and kept is not None:
                whole = host(with_gaps(torch.from_numpy(whole), kept))
            worlds = ("intervention",) if group == "counterfactual" else ()
            groups.setdefault(group, {})[name] = ((*SAMPLE, *worlds, "datum", *event), whole)
        if not self.reason and parts.weights:
            found = importance_weights.per_row(np.concatenate(parts.weights))
            groups["diagnostics"] = {name: (("datum",), value) for name, value in found.items()}
        dtype = parts.dtype
        probs: Variables = {}
        for label, total in parts.probs.items():
            mean = with_gaps(torch.from_numpy(total / self.draws), there.get(label), 1)
            dims = ("datum", *event_dims(known[label]), f"{label}_class")
            probs[f"{label}_probs"] = (dims, host(mean).astype(dtype))
        groups["variational"] = {**probs, **self._variational(batch, there)}
        if not self.outside.sites:
            groups["modalities"] = told_alone(self.pair, batch, self.sites, self.oracle)
        return groups

    def _variational(self, batch: Batch, there: Mapping[str, Tensor]) -> Variables:
        """Parameters of Normal factors that are a function of the row alone."""
        if not self.outside.sites:
            return self._parameters(self.pair, batch, there)
        first = self._parameters(self.outside.at(0), batch, there)
        other = self._parameters(self.outside.at(-1), batch, there)
        return {n: v for n, v in first.items() if np.array_equal(v[1], other[n][1], True)}

    def _parameters(
        self, program: Program, batch: Batch, there: Mapping[str, Tensor]
    ) -> Variables:
        found: Variables = {}
        parameters = guide_parameters(program.guide, batch, self.sites)
        for name, (labels, loc, scale) in parameters.items():
            classes = (f"{label}_class" for label in labels)
            dims = ("datum", *classes, *event_dims(self.sites.latents[name]))
            kept = there.get(name)
            if kept is not None:  # the classes stand between rows and elements
                kept = kept.reshape(len(kept), *[1] * len(labels), *kept.shape[1:])
            for part, value in (("loc", loc), ("scale", scale)):
                found[f"{name}_{part}"] = (dims, host(with_gaps(value.cpu(), kept)))
        return found


class _Parts:
    """Arrays of a block, some draws after others; draws beyond a group's limit are dropped."""

    def __init__(self, kept: Mapping[str, int]) -> None:
        self.kept, self.draw = kept, 0
        self.arrays: dict[tuple[str, str], list[Array]] = {}
        self.probs: dict[str, Array] = {}
        self.weights: list[Array] = []
        self.dtype: Any = np.float32

    def put(self, group: str, name: str, value: Tensor) -> None:
        """Values ``(S', B, ...)`` of the next draws."""
        if self.draw < self.kept[group]:
            part = host(value)[: self.kept[group] - self.draw]
            self.arrays.setdefault((group, name), []).append(part)


def prior(
    pair: Pair,
    sites: Sites,
    outside: Outside,
    draws: int,
    covariates: Mapping[str, Tensor] | None = None,
) -> dict[str, Variables]:
    """One new row per draw from the story, nothing observed, as one chain.

    Args:
        pair: The pair.
        sites: The random variables of a row.
        outside: Draws of those that all rows share.
        draws: Their number; no groups without.
        covariates: Of one row per draw; ``prior`` keeps them beside what is drawn.
    """
    if not draws:
        return {}
    # What all rows share is drawn anew for every draw.
    runs, rows = (draws, 1) if outside.sites else (1, draws)
    known = covariates or {}
    parts = [{n: v[run : run + rows] for n, v in known.items()} for run in range(runs)]
    new = [draw_data(pair.model, empty(pair, rows, p), {}, 1, sites.nesting) for p in parts]
    there = _of_runs(pair, sites, outside, rows, parts)
    groups: dict[str, Variables] = {"prior": {}, "prior_predictive": {}}
    for name, site in {**sites.data, **sites.latents, **outside.sites}.items():
        group = "prior_predictive" if name in pair.card.data else "prior"
        # One draw of what all rows share has no dimension for draws, which rows have.
        stored = [site.stored(run[name]) for run in new]
        whole = torch.stack(stored) if name in outside.sites else torch.cat(stored, 1)[0]
        whole = with_gaps(whole, there.get(name))
        groups[group][name] = ((*SAMPLE, *event_dims(site)), host(whole)[None])
    for name, value in known.items():
        dims = event_dims(Site(name, tuple(value.shape[1:]), None))
        groups["prior"][name] = ((*SAMPLE, *dims), host(value)[None])
    return groups


def _of_runs(
    pair: Pair, sites: Sites, outside: Outside, rows: int, parts: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Where ragged sites have a value in the rows of all runs."""
    if not sites.ragged:
        return {}
    model = outside.at(0).model
    with quiet(pair.like().device):
        runs = [elements_there(model, empty(pair, rows, part), sites) for part in parts]
    return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}


def capacity(sites: Sites, draws: int, rows: int, limits: Mapping[str, int]) -> dict[str, int]:
    """How many draws each group keeps of so many rows.

    Args:
        sites: The random variables.
        draws: Draws S per row.
        rows: Rows whose draws are kept.
        limits: Most numbers of a group.
    """
    latent, data = sites.latents.values(), sites.data.values()
    per_draw = {
        "posterior": sum(math.prod(s.shape) for s in latent),
        "posterior_predictive": sum(math.prod(s.shape) for s in data),
        # A label that is summed out costs a call of the decoder per class.
        "log_likelihood": sites.classes(sites.labels) * len(sites.data),
    }
    kept = {
        group: min(draws, limits[group] // max(1, rows * cells))
        for group, cells in per_draw.items()
    }
    kept["posterior"] = max(1, kept["posterior"])
    return {**kept, "sample_stats": draws}
