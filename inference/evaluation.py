"""One run of a pair on one batch: traces and log weights that all terms of a step share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_models.batch import Batch

DATA = "data"  # name of the plate over rows


class UnhandledSite(ValueError):
    """A latent site that the objective can neither sum out nor differentiate through."""


@dataclass
class Weights:
    """Log weights of one run; dimensions ``(E..., K, B)`` as in ``bounds``.

    Attributes:
        log_p: Log joint of the model; sites enumerated in the model alone are summed out.
        log_q: Log density of the guide's drawn sites (0.0 if there are none).
        log_q_labels: Log q of the sites enumerated in the guide, ``(E..., 1, B)``, or None.
        outside: Log p - log q of sites outside the data plate, a scalar.
        rescaled: Name of a site whose weight is not just the plate's N / B, or None.
        bridges: Values that the model received for the guide's draws, by site name, each
            with its number of event dimensions (for gradients that scale the path).
        shared: Label dimensions that the draws do not depend on.
        log_q_cut: The part of ``log_q`` whose draws carry no gradient (0.0 if there are none).
        guide: Trace of the guide.
        model: Trace of the model.
    """

    log_p: Tensor
    log_q: Tensor | float
    log_q_labels: Tensor | None
    outside: Tensor | float
    rescaled: str | None
    guide: poutine.Trace
    model: poutine.Trace
    bridges: list[tuple[Tensor, int]] = field(default_factory=list)
    shared: tuple[int, ...] = ()
    log_q_cut: Tensor | float = 0.0

    @property
    def log_w(self) -> Tensor:
        """``(E..., K, B)``."""
        return self.log_p - self.log_q


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
        self._weights: dict[tuple[Any, ...], Weights] = {}
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

        Raises:
            UnhandledSite: Naming the discrete site that nobody sums out or relaxes, or the
                latent site without a counterpart.
        """
        key = (particles, enumerate_labels, analytic_kl, path, bridge, cut)
        if key not in self._weights:
            self._weights[key] = self._run(*key)
        return self._weights[key]

    def _run(
        self,
        particles: int,
        enumerate_labels: bool,
        analytic_kl: bool,
        path: bool,
        bridge: bool,
        cut: str,
    ) -> Weights:
        particle_dim = -1 - self.plate_nesting
        draw = _Draw(particles, particle_dim, enumerate_labels, detach=cut == "all")
        enumeration = EnumMessenger(first_available_dim=particle_dim - 1)
        guide = poutine.trace(enumeration(draw(self.guide))).get_trace(self.batch)
        sampled = dict(latent_sites(guide))
        for name, site in sampled.items():
            if cut == "none":
                _check_differentiable(name, site, enumerate_labels)
        labels = [name for name, site in sampled.items() if _enumerated(site)]

        terms = _Terms(self.batch.scale, self.plate_nesting)
        score = self._score(guide, labels, draw) if path and not analytic_kl else None
        for name, site in sampled.items():
            if name in labels:
                terms.add("labels", name, site, site["fn"].log_prob(site["value"]))
            elif not analytic_kl:
                log_q = _log_q(site, score and score.nodes[name])
                terms.add("q", name, site, log_q)
                if cut == "all" or not site["fn"].has_rsample:
                    terms.add("cut", name, site, log_q)
        replayed = guide
        bridges: list[tuple[Tensor, int]] = []
        shared: tuple[int, ...] = ()
        if bridge:
            replayed, bridges, shared = _bridged(guide, sampled, len(labels) - particle_dim)

        mark = _Draw(1, particle_dim, enumerate_labels)
        model = poutine.trace(
            EnumMessenger()(poutine.replay(mark(self.model), trace=replayed))
        ).get_trace(self.batch)
        summed = _model_only(model, sampled)
        for name, site in random_sites(model):
            if analytic_kl and name in sampled and name not in labels:
                terms.add("q", name, site, _kl(name, guide.nodes[name], site))
            else:
                terms.add("p", name, site, site["fn"].log_prob(site["value"]))
        log_p = terms.total["p"]
        if summed:  # their dimensions stand left of the guide's
            log_p = torch.logsumexp(log_p, tuple(range(len(summed))))
        log_q_labels = terms.total.get("labels")
        if log_q_labels is not None and log_q_labels.shape[-2] > 1:
            # q(y | z_k) varies with the draw: the bound holds for any distribution of y, and
            # the mean over draws is one.
            log_q_labels = torch.logsumexp(log_q_labels, -2, keepdim=True) - math.log(particles)
        return Weights(
            log_p,
            terms.total.get("q", 0.0),
            log_q_labels,
            terms.outside,
            terms.rescaled,
            guide,
            model,
            bridges,
            shared,
            terms.total.get("cut", 0.0),
        )

    def _score(self, guide: poutine.Trace, labels: list[str], draw: _Draw) -> poutine.Trace:
        # The guide at the same values cut from the graph: what is left of the gradient of
        # its log density is the direct dependence on the parameters.
        cut = guide.copy()
        for name, site in latent_sites(guide):
            if name not in labels:
                cut.nodes[name] = {**site, "value": site["value"].detach()}
        return poutine.trace(poutine.replay(draw(self.guide), trace=cut)).get_trace(self.batch)


class _Draw(Messenger):
    """Marks discrete latent sites for enumeration and draws the others K times per row.

    The K draws take a dimension of their own left of all plates. Sites outside the data
    plate keep one draw: network weights with a particle dimension could not be multiplied by
    a batch.
    """

    def __init__(
        self, particles: int, dim: int, enumerate_labels: bool, detach: bool = False
    ) -> None:
        super().__init__()
        self.particles, self.dim, self.enumerate_labels = particles, dim, enumerate_labels
        self.detach = detach

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"] or _is_plate(msg):
            return
        if self.enumerate_labels and enumerable(fn):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}
        else:
            msg["infer"] = {k: v for k, v in msg["infer"].items() if k != "enumerate"}
            if self.particles > 1 and is_local(msg):
                shape = [1] * (-self.dim - len(fn.batch_shape)) + list(fn.batch_shape)
                shape[self.dim] = self.particles
                msg["fn"] = fn.expand(torch.Size(shape))
                frame = CondIndepStackFrame("particles", self.dim, self.particles, 0)
                msg["cond_indep_stack"] = (frame, *msg["cond_indep_stack"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.detach and not msg["is_observed"] and not _is_plate(msg):
            msg["value"] = msg["value"].detach()


class _Terms:
    """Adds up log densities, each reduced to ``(E..., K, B)`` without the plate's N / B."""

    def __init__(self, plate_scale: float, plate_nesting: int) -> None:
        self.plate_scale, self.plate_nesting = plate_scale, plate_nesting
        self.total: dict[str, Tensor] = {}
        self.outside: Tensor | float = 0.0
        self.rescaled: str | None = None

    def add(self, kind: str, name: str, site: Any, log_prob: Tensor) -> None:
        scale, mask = site["scale"], site["mask"]
        if not is_local(site):
            if kind == "cut":
                return
            value = scale_and_mask(log_prob, scale, mask).sum()
            self.outside = self.outside + (value if kind == "p" else -value)
            return
        if isinstance(scale, Tensor) or scale != self.plate_scale:
            self.rescaled = name
            scale = scale / self.plate_scale
        else:
            scale = 1.0
        value = scale_and_mask(log_prob, scale, mask)
        if value.dim() > 1 or self.plate_nesting > 1:
            value = self._rows(name, site, value)
        else:
            value = value.unsqueeze(0)
        self.total[kind] = self.total[kind] + value if kind in self.total else value

    def _rows(self, name: str, site: Any, value: Tensor) -> Tensor:
        # Sum plates inside a row's own: dimensions -2 .. -plate_nesting.
        nesting = self.plate_nesting
        value = value.reshape((1,) * (nesting + 1 - value.dim()) + value.shape)
        inner = tuple(range(-nesting, -1))
        if not inner:
            return value
        if _enumerated(site) and len(site["cond_indep_stack"]) > 1:
            raise UnhandledSite(
                f"site {name!r} would be enumerated inside a plate within the rows, which "
                "this objective does not sum exactly"
            )
        return value.sum(inner)


def random_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites of a trace, observed or not, without the plates' own."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not _is_plate(site):
            yield name, site


def latent_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites of a trace that are not observed."""
    for name, site in random_sites(trace):
        if not site["is_observed"]:
            yield name, site


def _is_plate(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def is_local(site: Any) -> bool:
    """Whether a site stands inside the data plate."""
    return any(frame.name == DATA for frame in site["cond_indep_stack"])


def _enumerated(site: Any) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def enumerable(fn: Any) -> bool:
    """Whether all values of a distribution can be listed in one dimension."""
    # Independent says yes for a vector of discrete values and fails when asked for them.
    return fn.has_enumerate_support and not (isinstance(fn, dist.Independent) and fn.event_dim)


def _check_differentiable(name: str, site: Any, enumerate_labels: bool) -> None:
    fn = site["fn"]
    if _enumerated(site) and not is_local(site):
        raise UnhandledSite(
            f"site {name!r} is discrete and stands outside the data plate; this objective sums "
            "labels row by row, expected it inside plate 'data'"
        )
    if _enumerated(site) or fn.has_rsample:
        return
    if enumerable(fn) and not enumerate_labels:
        raise UnhandledSite(
            f"site {name!r} is discrete ({type(fn).__name__}) and this objective does not sum "
            "it out; use EnumeratedELBO or IWELBO, or observe it"
        )
    raise UnhandledSite(
        f"site {name!r} ({_family(fn)}) can be neither enumerated nor reparameterised, so its "
        "guide would get no correct gradient; expected a finite support of scalars or one-hot "
        "vectors, a reparameterised distribution or a relaxation"
    )


def _family(fn: Any) -> str:
    return type(fn.base_dist if isinstance(fn, dist.Independent) else fn).__name__


def _model_only(model: poutine.Trace, sampled: dict[str, Any]) -> list[str]:
    summed = []
    for name, site in latent_sites(model):
        if name not in sampled:
            if not _enumerated(site):
                raise UnhandledSite(
                    f"site {name!r} is latent in the model, but the guide does not sample it; "
                    "give the guide a factor for it, or put its values in the batch"
                )
            summed.append(name)
    for name in sampled:
        if name not in model.nodes:
            raise UnhandledSite(f"the guide samples site {name!r}, which the model lacks")
    return summed


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
            f"site {name!r} has no closed-form KL({_family(q['fn'])} || {_family(p['fn'])}); "
            'use kl="sampled"'
        ) from None
    return kl


def _bridged(
    guide: poutine.Trace, sampled: dict[str, Any], dims: int
) -> tuple[poutine.Trace, list[tuple[Tensor, int]], tuple[int, ...]]:
    """Copies of the draws over all labels, and the label dimensions they do not depend on."""
    labels = [site for site in sampled.values() if _enumerated(site)]
    sizes = [1] * dims
    for site in labels:
        dim = site["infer"]["_enumerate_dim"]
        sizes[dim] = site["value"].shape[dim - site["fn"].event_dim]
    label_dims = range(-dims, -dims + len(labels))
    replayed, bridges, shares = guide.copy(), [], set()
    names = list(sampled)
    for place, (name, site) in enumerate(sampled.items()):
        if _enumerated(site):
            continue
        after = [n for n in names[place:] if _enumerated(sampled[n])]
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
