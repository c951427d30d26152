"""The guide's side of a run: what is asked of it, its labels listed and its other sites drawn."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.traces.contraction import Summed
from ppl_models.inference.traces.dry_run import LargeGridError
from ppl_models.inference.traces.nesting import DRAWS, check_nesting
from ppl_models.inference.traces.sites import (
    UnhandledSite,
    combinations,
    enumerable,
    is_enumerated,
    latent_sites,
)
from ppl_models.inference.traces.weights import label_of, plates_within
from ppl_models.sample_sites import COMBINATIONS, is_local, is_plate


@dataclass(frozen=True)
class Ask:
    """What log weights are asked for; see :meth:`Evaluation.weights`."""

    particles: int = 1
    enumerate_labels: bool = True
    analytic_kl: bool = False
    path: bool = False
    bridge: bool = False
    cut: str = "none"
    cap: int = COMBINATIONS


@dataclass(frozen=True)
class Piece:
    """Some of the values of one enumerated site of the guide.

    Attributes:
        site: Name of the site.
        values: First value and the one after the last, by place in the support.
        drawn: Values of draws that do not depend on it, by site name.
    """

    site: str
    values: tuple[int, int]
    drawn: Mapping[str, Tensor]


@dataclass(frozen=True)
class Drawn:
    """One run of the guide.

    Attributes:
        ask: What it was run for.
        limit: Number of combinations of labels from which on LargeGridError is raised.
        dim: Dimension of the K draws, left of all plates.
        trace: Its trace.
        sites: Its latent sites, by name.
        labels: Those of them that are enumerated.
    """

    ask: Ask
    limit: float
    dim: int
    trace: poutine.Trace
    sites: Mapping[str, Any]
    labels: Mapping[str, Any]

    @classmethod
    def of(cls, trace: poutine.Trace, plate_nesting: int) -> Drawn:
        """What a trace of a guide has drawn, for a model to be run on."""
        sites = dict(latent_sites(trace))
        labels = {name: site for name, site in sites.items() if is_enumerated(site)}
        return cls(Ask(), math.inf, -1 - plate_nesting, trace, sites, labels)

    def moved(self, dims: Mapping[str, int]) -> poutine.Trace:
        """The trace with the draws of some sites in dimensions of their own.

        Args:
            dims: The dimensions, by site.
        """
        trace = self.trace.copy()
        for name, dim in dims.items():
            site = self.sites[name]
            value = _moved(site["value"], self.dim, dim, site["fn"].event_dim)
            trace.nodes[name] = {**site, "value": value}
        return trace

    def summed(self, dims: Mapping[str, int], nesting: int) -> list[Summed]:
        """Labels, and sites whose draws stand in dimensions of their own, to be summed over."""
        labels = [label_of(name, site, nesting) for name, site in self.labels.items()]
        plates = {name: plates_within(self.sites[name], nesting) for name in dims}
        draws = [
            Summed(name, dim, self.ask.particles, plates[name], in_guide=False, drawn=True)
            for name, dim in dims.items()
        ]
        return [*labels, *draws]

    def log_mixture(self, name: str, value: Tensor, dim: int) -> Tensor:
        """Log density from which a site's draws came, those before them summed out.

        Args:
            name: The site.
            value: Its draws in a dimension of their own, as :meth:`moved` gives them.
            dim: That dimension.
        """
        site = self.sites[name]
        fn = site["fn"]
        if not site["infer"]["_given_draws"]:
            log_q: Tensor = fn.log_prob(site["value"])
            return _moved(log_q, self.dim, dim, 0)
        log_q = fn.log_prob(value)
        return torch.logsumexp(log_q, self.dim, keepdim=True) - math.log(log_q.shape[self.dim])

    def bridged(self) -> tuple[poutine.Trace, list[tuple[Tensor, int]], tuple[int, ...]]:
        """Copies of the draws over all labels, and the label dimensions they do not depend on.

        Raises:
            UnhandledSite: Naming the site that has no such copy.
        """
        dims = len(self.labels) - self.dim
        sizes = [1] * dims
        for site in self.labels.values():
            dim = site["infer"]["_enumerate_dim"]
            sizes[dim] = site["value"].shape[dim - site["fn"].event_dim]
        label_dims = range(-dims, -dims + len(self.labels))
        replayed, bridges, shares = self.trace.copy(), [], set()
        names = list(self.sites)
        for place, (name, site) in enumerate(self.sites.items()):
            if name in self.labels:
                continue
            _check_bridge(name, site, [n for n in names[place:] if n in self.labels])
            event = site["fn"].event_dim
            value = site["value"]
            batch = (1,) * (dims - value.dim() + event) + tuple(value.shape[: value.dim() - event])
            shares.add(tuple(d for d in label_dims if batch[d] == 1 and sizes[d] > 1))
            full = [max(a, b) for a, b in zip(batch, sizes, strict=True)]
            bridge = value.expand(*full, *value.shape[value.dim() - event :]).clone()
            replayed.nodes[name] = {**site, "value": bridge}
            bridges.append((bridge, event))
        if len(shares) > 1:
            raise UnhandledSite(
                "the guide's draws depend on different labels; the doubly reparameterised "
                'gradient needs them to depend on the same ones, use grad="plain"'
            )
        return replayed, bridges, shares.pop() if shares else ()


def trace_guide(
    guide: Callable[[Batch], Any], batch: Batch, piece: Piece | None, detach: bool
) -> poutine.Trace:
    """One run of a guide.

    Args:
        guide: The guide, under the handlers that mark its sites.
        batch: The batch.
        piece: Enumerate only a part of the values of one site.
        detach: Cut each draw from the graph.
    """
    if piece is not None:
        guide = _Slice(piece)(guide)
    trace = poutine.trace()
    # Handlers see a finished draw from the outside in: the trace would record it attached.
    with _Detach() if detach else contextlib.nullcontext(), trace:
        guide(batch)
    return trace.get_trace()


class _Detach(Messenger):
    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not is_plate(msg):
            msg["value"] = msg["value"].detach()


class _Slice(Messenger):
    """Keeps some values of an enumerated site; draws that do not depend on it are given."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.piece = piece

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.piece.site and is_enumerated(msg):
            first, last = self.piece.values
            axis = msg["infer"]["_enumerate_dim"] - msg["fn"].event_dim
            msg["value"] = msg["value"].narrow(axis, first, last - first)
        elif msg["name"] in self.piece.drawn:
            msg["value"], msg["done"] = self.piece.drawn[msg["name"]], True


class Draw(Messenger):
    """Marks discrete latent sites for enumeration and draws the others K times per row.

    The K draws take a dimension of their own left of all plates. Sites outside the data
    plate keep one draw: network weights with a particle dimension could not be multiplied by
    a batch.
    """

    def __init__(self, ask: Ask, dim: int, limit: float) -> None:
        super().__init__()
        self.ask, self.dim, self.limit = ask, dim, limit
        self.met: dict[str, Summed] = {}  # labels so far

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        check_nesting(msg, -1 - self.dim)
        if msg["done"] or msg["is_observed"] or is_plate(msg):
            return
        if self.ask.enumerate_labels and self.ask.cut == "none":
            fn = msg["fn"] = combinations(fn, self.ask.cap)
        if self.ask.enumerate_labels and enumerable(fn):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}
        else:
            msg["infer"] = {k: v for k, v in msg["infer"].items() if k != "enumerate"}
            given = len(fn.batch_shape) >= -self.dim and fn.batch_shape[self.dim] > 1
            msg["infer"]["_given_draws"] = given
            if self.ask.particles > 1 and is_local(msg):
                shape = [1] * (-self.dim - len(fn.batch_shape)) + list(fn.batch_shape)
                shape[self.dim] = self.ask.particles
                msg["fn"] = fn.expand(torch.Size(shape))
                frame = CondIndepStackFrame(DRAWS, self.dim, self.ask.particles, 0)
                msg["cond_indep_stack"] = (frame, *msg["cond_indep_stack"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_plate(msg) or not is_enumerated(msg):
            return
        axis = msg["infer"]["_enumerate_dim"] - msg["fn"].event_dim
        size = msg["value"].shape[axis]
        self.met[msg["name"]] = Summed(msg["name"], msg["infer"]["_enumerate_dim"], size)
        check_grid(list(self.met.values()), self.limit)


class Within(Messenger):
    """Ends a run, at the site, whose density has too many combinations of draws and labels.

    Pyro writes all shapes of a trace into a ValueError, so that it raises LargeGridError.

    Args:
        summed: Gives labels and draws in dimensions of their own.
        cap: The most combinations.
    """

    def __init__(self, summed: Sequence[Summed], cap: int) -> None:
        super().__init__()
        self.summed, self.cap = summed, cap

    def _pyro_sample(self, msg: Any) -> None:
        if not is_plate(msg):
            shape = msg["fn"].batch_shape
            wide = [v for v in self.summed if len(shape) >= -v.dim and shape[v.dim] > 1]
            check_grid(wide, self.cap)


def check_grid(met: Sequence[Summed], limit: float) -> None:
    """Stop a run that has met several variables with more combinations than a limit.

    Raises:
        LargeGridError: Of them.
    """
    if len(met) > 1 and math.prod(v.size for v in met) > limit:
        raise LargeGridError(met)


def _moved(value: Tensor, old: int, new: int, event_dim: int) -> Tensor:
    # From the common dimension of the draws to one of the site's own.
    value = value.reshape((1,) * (event_dim - new - value.dim()) + tuple(value.shape))
    return value.transpose(old - event_dim, new - event_dim)


def _check_bridge(name: str, site: Any, labels_after: list[str]) -> None:
    if not is_local(site):
        raise UnhandledSite(
            f"site {name!r} stands outside the data plate, where the doubly reparameterised "
            'gradient has no weight per row; use grad="plain"'
        )
    if labels_after:
        raise UnhandledSite(
            f"the guide samples the enumerated site {labels_after[0]!r} after {name!r}; the "
            'doubly reparameterised gradient needs labels first, use grad="plain"'
        )
