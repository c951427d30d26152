"""One run of a pair on one batch: traces and log weights that all terms of a step share."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_models.batch import Batch
from ppl_models.inference.traces.dry_run import LargeGridError, Survey, run_within, survey
from ppl_models.inference.traces.sites import (
    DATA,
    UnhandledSite,
    check_differentiable,
    check_prior,
    combinations,
    enumerable,
    enumerated,
    family,
    is_local,
    is_plate,
    latent_sites,
    model_only,
    random_sites,
)
from ppl_models.inference.traces.weights import Collector, Weights

__all__ = [
    "COMBINATIONS",
    "DATA",
    "Ask",
    "Draw",
    "Evaluation",
    "Piece",
    "UnhandledSite",
    "Weights",
    "enumerable",
    "is_local",
    "latent_sites",
    "random_sites",
]

COMBINATIONS = 4096  # largest joint grid of labels that is formed unasked


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


class Evaluation:
    """A pair on a batch whose rows share what is observed.

    Args:
        model: A model, called with the batch.
        guide: Its guide, called with the batch.
        batch: The batch.
        plate_nesting: Number of plate dimensions, the data plate (dimension -1) included.
    """

    def __init__(
        self,
        model: Callable[[Batch], Any],
        guide: Callable[[Batch], Any],
        batch: Batch,
        plate_nesting: int = 1,
    ) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.plate_nesting = plate_nesting
        self._weights: dict[Ask, Weights] = {}
        self._factors: dict[str, dist.TorchDistribution] = {}

    def factor(self, name: str) -> dist.TorchDistribution:
        """The guide's factor for a site on this batch, outside any trace.

        Raises:
            TypeError: If the guide cannot hand out factors.
        """
        if name not in self._factors:
            if not hasattr(self.guide, "factor"):
                raise TypeError(
                    f"a term needs the guide's factor for site {name!r}, but "
                    f"{type(self.guide).__name__} has no factor(name, batch); "
                    "compose the guide with guides.Factored"
                )
            self._factors[name] = self.guide.factor(name, self.batch)
        return self._factors[name]

    def weights(
        self,
        particles: int = 1,
        *,
        enumerate_labels: bool = True,
        analytic_kl: bool = False,
        path: bool = False,
        bridge: bool = False,
        cut: Literal["none", "discrete", "all"] = "none",
        cap: int = COMBINATIONS,
    ) -> Weights:
        """Trace guide and model once; the same request is answered from the first run.

        Args:
            particles: Draws K per row and label.
            enumerate_labels: Sum out discrete sites in parallel.
            analytic_kl: Replace log q - log p of each reparameterised site by the closed
                form of its KL divergence.
            path: Leave out of the gradient of log q its direct dependence on the guide's
                parameters, so that only the path through the draws remains.
            bridge: Hand the model copies of the draws, expanded over all labels, whose
                gradient can be scaled apart from the draws' own.
            cut: Which drawn sites may carry no gradient through their values: by default none
                (a site that can be neither enumerated nor reparameterised is an error);
                ``"discrete"``, those that cannot be reparameterised, for score-function
                gradients; ``"all"``, whose draws are detached, for wake-sleep.
            cap: Largest number of combinations of labels in one tensor. Vectors of discrete
                values with at most so many are listed too, unless ``cut`` lets them be drawn.

        Raises:
            UnhandledSite: Naming the discrete site that nobody sums out or relaxes, the
                latent site without a counterpart, or the labels with too many combinations.
        """
        return self.weights_for(
            Ask(particles, enumerate_labels, analytic_kl, path, bridge, cut, cap)
        )

    def weights_for(self, ask: Ask) -> Weights:
        """The same from one record of what is asked for."""
        if ask not in self._weights:
            self._weights[ask] = self.run(ask)
        return self._weights[ask]

    def run(self, ask: Ask, piece: Piece | None = None) -> Weights:
        """Trace guide and model anew.

        Args:
            ask: What for.
            piece: Enumerate only a part of the values of one site.
        """
        key = self._key(ask, piece and piece.site, piece and piece.values[1] - piece.values[0])
        device = self.batch.rows.device
        return run_within(
            self.guide, key, ask.cap, device, lambda limit: self._run(ask, limit, piece)
        )

    def survey(self, ask: Ask) -> Survey:
        """What a run would form, found out without values or random numbers."""
        key = self._key(ask, "survey")
        return survey(self.guide, key, lambda: self._run(ask, math.inf))

    def _key(self, *what: Hashable) -> Hashable:
        return (frozenset(self.batch), self.plate_nesting, *what)

    def _run(self, ask: Ask, limit: float, piece: Piece | None = None) -> Weights:
        particle_dim = -1 - self.plate_nesting
        draw = Draw(ask, particle_dim, limit)
        run_guide = EnumMessenger(first_available_dim=particle_dim - 1)(draw(self.guide))
        if piece is not None:
            run_guide = _Part(piece)(run_guide)
        guide = _trace(run_guide, self.batch, detach=ask.cut == "all")
        sampled = dict(latent_sites(guide))
        for name, site in sampled.items():
            if ask.cut == "none":
                check_differentiable(name, site, ask.enumerate_labels, ask.cap)
        labels = {name: site for name, site in sampled.items() if enumerated(site)}
        replayed = guide
        bridges: list[tuple[Tensor, int]] = []
        shared: tuple[int, ...] = ()
        if ask.bridge:
            replayed, bridges, shared = _bridged(guide, sampled, len(labels) - particle_dim)
        mark = Draw(dataclasses.replace(ask, particles=1), particle_dim, limit)
        model = poutine.trace(
            EnumMessenger()(poutine.replay(mark(self.model), trace=replayed))
        ).get_trace(self.batch)
        summed = model_only(model, sampled)

        terms = Collector(self.batch.scale, self.plate_nesting, labels, summed)
        score = self._score(guide, labels, draw) if ask.path and not ask.analytic_kl else None
        for name, site in sampled.items():
            if name in labels:
                terms.add("labels", name, site, site["fn"].log_prob(site["value"]))
            elif not ask.analytic_kl:
                log_q = _log_q(site, score and score.nodes[name])
                terms.add("q", name, site, log_q)
                if ask.cut == "all" or not site["fn"].has_rsample:
                    terms.add("cut", name, site, log_q)
        for name, site in random_sites(model):
            if ask.analytic_kl and name in sampled and name not in labels:
                kl = _kl(name, guide.nodes[name], site)
                check_prior(name, kl, summed)
                terms.add("q", name, site, kl)
            else:
                terms.add("p", name, site, site["fn"].log_prob(site["value"]))
        return terms.weights(ask.cap, guide, model, bridges, shared)

    def _score(self, guide: poutine.Trace, labels: Mapping[str, Any], draw: Draw) -> poutine.Trace:
        # The guide at the same values cut from the graph: what is left of the gradient of
        # its log density is the direct dependence on the parameters.
        cut = guide.copy()
        for name, site in latent_sites(guide):
            if name not in labels:
                cut.nodes[name] = {**site, "value": site["value"].detach()}
        return poutine.trace(poutine.replay(draw(self.guide), trace=cut)).get_trace(self.batch)


def _trace(guide: Callable[[Batch], Any], batch: Batch, detach: bool) -> poutine.Trace:
    trace = poutine.trace()
    # Handlers see a finished draw from the outside in: the trace would record it attached.
    with _Detach() if detach else contextlib.nullcontext(), trace:
        guide(batch)
    return trace.get_trace()


class _Detach(Messenger):
    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not is_plate(msg):
            msg["value"] = msg["value"].detach()


class _Part(Messenger):
    """Keeps some values of an enumerated site; draws that do not depend on it are given."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.piece = piece

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.piece.site and enumerated(msg):
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
        self.sizes: dict[str, int] = {}  # of the labels met so far

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
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
                frame = CondIndepStackFrame("particles", self.dim, self.ask.particles, 0)
                msg["cond_indep_stack"] = (frame, *msg["cond_indep_stack"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_plate(msg) or not enumerated(msg):
            return
        axis = msg["infer"]["_enumerate_dim"] - msg["fn"].event_dim
        self.sizes[msg["name"]] = msg["value"].shape[axis]
        if len(self.sizes) > 1 and math.prod(self.sizes.values()) > self.limit:
            raise LargeGridError


def _log_q(site: Any, score: Any) -> Tensor:
    log_q: Tensor = site["fn"].log_prob(site["value"])
    if score is not None:
        direct = score["fn"].log_prob(score["value"])
        log_q = log_q - direct + direct.detach()
    return log_q


def _kl(name: str, q: Any, p: Any) -> Tensor:
    try:
        kl: Tensor = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        raise UnhandledSite(
            f"site {name!r} has no closed-form KL({family(q['fn'])} || {family(p['fn'])}); "
            'use kl="sampled"'
        ) from None
    return kl


def _bridged(
    guide: poutine.Trace, sampled: dict[str, Any], dims: int
) -> tuple[poutine.Trace, list[tuple[Tensor, int]], tuple[int, ...]]:
    """Copies of the draws over all labels, and the label dimensions they do not depend on."""
    labels = [site for site in sampled.values() if enumerated(site)]
    sizes = [1] * dims
    for site in labels:
        dim = site["infer"]["_enumerate_dim"]
        sizes[dim] = site["value"].shape[dim - site["fn"].event_dim]
    label_dims = range(-dims, -dims + len(labels))
    replayed, bridges, shares = guide.copy(), [], set()
    names = list(sampled)
    for place, (name, site) in enumerate(sampled.items()):
        if enumerated(site):
            continue
        if not is_local(site):
            raise UnhandledSite(
                f"site {name!r} stands outside the data plate, where the doubly reparameterised "
                'gradient has no weight per row; use grad="plain"'
            )
        after = [n for n in names[place:] if enumerated(sampled[n])]
        if after:
            raise UnhandledSite(
                f"the guide samples the enumerated site {after[0]!r} after {name!r}; the doubly "
                'reparameterised gradient needs labels first, use grad="plain"'
            )
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
            "the guide's draws depend on different labels; the doubly reparameterised gradient "
            'needs them to depend on the same ones, use grad="plain"'
        )
    return replayed, bridges, shares.pop() if shares else ()
