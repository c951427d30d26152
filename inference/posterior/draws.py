"""Draws and exact sums over labels, on a block of rows: what exports and MCMC are made of.

Shapes: E one dimension per enumerated label, S draws, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.posterior.plated_scores import plated
from ppl_models.inference.posterior.rows import Sites
from ppl_models.inference.traces.sites import latent_sites, random_sites
from ppl_models.sample_sites import base_of, is_local, is_plate


class Many(Messenger):
    """Draws every latent site of a row S times, in a dimension left of the rows.

    Args:
        draws: Their number S.
        labels: Sites that are enumerated in place of drawn.
        nesting: Number of plate dimensions, the data plate included; the draws stand left of
            them, and labels left of the draws.

    Attributes:
        before: Each site's distribution as the program made it; one whose draw dimension is
            larger than one depends on earlier draws.
    """

    def __init__(self, draws: int, labels: Sequence[str] = (), nesting: int = 1) -> None:
        super().__init__()
        self.draws, self.labels, self.dim = draws, labels, -1 - nesting
        self.before: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or not is_local(msg) or is_plate(msg):
            return
        fn = msg["fn"]
        self.before[msg["name"]] = fn
        if msg["name"] in self.labels:
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}
            return
        msg["infer"] = {k: v for k, v in msg["infer"].items() if k != "enumerate"}
        shape = [1] * (-self.dim - len(fn.batch_shape)) + list(fn.batch_shape)
        shape[self.dim] = self.draws
        msg["fn"] = fn.expand(torch.Size(shape))
        frame = CondIndepStackFrame("draws", self.dim, self.draws, 0)
        msg["cond_indep_stack"] = (frame, *msg["cond_indep_stack"])


class Given(Messenger):
    """Gives sites their values and hides them from all handlers outside.

    Args:
        values: By site name.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True


@dataclass
class GuideDraws:
    """Draws of the guide.

    Attributes:
        values: ``(S, P, B, *event)`` by site, with a dimension for each plate within the rows.
        log_q: Their joint log density ``(S, B)``.
        logs: Log density of each site ``(S, B)``, given those before it.
        probs: By label, its probabilities ``(B, plates, C)`` averaged over the draws: exact where
            the label is drawn from what is given alone.
    """

    values: dict[str, Tensor]
    log_q: Tensor
    logs: dict[str, Tensor]
    probs: dict[str, Tensor]

    @property
    def draws(self) -> int:
        """Their number S."""
        return self.log_q.shape[0]

    def without(self, site: str) -> GuideDraws:
        """The draws of the other sites."""
        if site not in self.values:
            return self
        values, logs, probs = (
            {name: value for name, value in of.items() if name != site}
            for of in (self.values, self.logs, self.probs)
        )
        log_q = torch.stack(list(logs.values())).sum(0) if logs else torch.zeros_like(self.log_q)
        return GuideDraws(values, log_q, logs, probs)


def draw_guide(
    guide: Callable[[Batch], Any], batch: Batch, sites: Sites, draws: int
) -> GuideDraws:
    """Draw every latent site of the guide, labels included."""
    with Many(draws, nesting=sites.nesting):
        trace = poutine.trace(guide).get_trace(batch)
    log_q = batch.rows.new_zeros((), dtype=torch.float32)
    values, logs, probs = {}, {}, {}
    for name, node in latent_sites(trace):
        values[name] = node["value"]
        log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"])
        logs[name] = _over_plates(log_prob, sites.nesting)
        log_q = log_q + logs[name]
        support = sites.latents[name].support
        if support is not None:
            wide = support.reshape(-1, *[1] * (1 + sites.nesting), *support.shape[1:])
            mean = node["fn"].log_prob(wide).double().exp().mean(1).movedim(0, -1)
            probs[name] = sites.latents[name].by_row(mean, 1)
    log_q = log_q.expand(draws, batch.count)
    return GuideDraws(values, log_q, logs, probs)


def guide_parameters(
    guide: Callable[[Batch], Any],
    batch: Batch,
    sites: Sites,
    families: tuple[type[dist.Distribution], ...] = (dist.Normal,),
) -> dict[str, tuple[tuple[str, ...], Tensor, Tensor]]:
    """Mean and standard deviation of the guide's Normal factors.

    Args:
        guide: The guide.
        batch: The rows.
        sites: The random variables.
        families: What factors are of, where others have a mean and a deviation, too.

    Returns:
        By site: the labels it depends on, loc and scale ``(B, C..., plates, *event)``.
        Factors that depend on a continuous draw are left out: they are no function of the row.
    """
    labels = [name for name in sites.labels if name in sites.guided]
    many, nesting = Many(2, labels, sites.nesting), sites.nesting
    with EnumMessenger(first_available_dim=many.dim - 1), many:
        trace = poutine.trace(guide).get_trace(batch)
    dims = {name: trace.nodes[name]["infer"]["_enumerate_dim"] for name in labels}
    found = {}
    for name, fn in many.before.items():
        base = base_of(fn)
        shape = (1,) * (1 + nesting + len(labels) - len(fn.batch_shape)) + tuple(fn.batch_shape)
        if not isinstance(base, families) or shape[many.dim] > 1:
            continue
        of = tuple(label for label in labels if shape[dims[label]] > 1)
        inner = [plate.dim for plate in sites.latents[name].plates]
        order = [-1, *(dims[label] for label in of), *inner]
        event = len(fn.event_shape)
        both = []
        for value in (base.mean, base.stddev):
            full = value.expand(*fn.batch_shape, *fn.event_shape)
            full = full.reshape(*shape, *fn.event_shape)
            full = full.movedim([d - event for d in order], list(range(len(order))))
            # What is left between these and the event has size one.
            both.append(full.reshape(*full.shape[: len(order)], *fn.event_shape))
        found[name] = (of, both[0], both[1])
    return found


class Scored(Protocol):
    """The model's log joint density at draws: :class:`Scores`, or ``plated_scores.Plated``.

    Attributes:
        labels: The enumerated labels.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def data(self) -> Sequence[str]:
        """Names of the observed sites."""
        ...

    def log_likelihood(self, sites: Collection[str]) -> Tensor:
        """Of some observed sites together, given all other ``(S, B)``, labels summed out."""
        ...

    def marginal(self) -> Tensor:
        """Log density with the labels summed out ``(S, B)``."""
        ...

    def at(self, places: Mapping[str, Tensor]) -> Scored:
        """At one value of some labels, given as places ``(S, P, B)`` in their supports."""
        ...

    def draw(self) -> dict[str, Tensor]:
        """One exact draw of all labels given everything else, as places ``(S, P, B)``."""
        ...

    def probs(self, label: str) -> Tensor:
        """Probabilities of a label given everything but the labels ``(S, P, B, C)``."""
        ...


TOGETHER = "data"  # name of the log-likelihood of several data sites


@dataclass
class Scores:
    """The model's log joint density at given draws, for every value of some labels.

    Attributes:
        log_joint: ``(E..., S, B)``.
        labels: The enumerated labels, in the order of their dimensions.
        logs: Log density of every site, given the sites before it.
        data: Names of the observed sites.
    """

    log_joint: Tensor
    labels: tuple[str, ...]
    logs: dict[str, Tensor]
    data: tuple[str, ...]

    def log_likelihood(self, sites: Collection[str]) -> Tensor:
        """Of some observed sites together, given all other ``(S, B)``, labels summed out.

        It is log sum_y p(all) - log sum_y p(all but these sites).
        """
        if not self.labels:
            return _add({n: self.logs[n] for n in sites}).expand(self.log_joint.shape)
        rest = _add({n: v for n, v in self.logs.items() if n not in sites})
        return self.marginal() - _sum_out(rest.expand(self.log_joint.shape))

    def marginal(self) -> Tensor:
        """Log density with the labels summed out ``(S, B)``."""
        return _sum_out(self.log_joint)

    def at(self, places: Mapping[str, Tensor]) -> Scores:
        """At one value of some labels, given as places ``(S, B)`` in their supports."""
        joint, left = self.log_joint, list(self.labels)
        for label in [label for label in self.labels if label in places]:
            dim = left.index(label)
            index = places[label].expand(*joint.shape[:dim], 1, *joint.shape[dim + 1 :])
            joint = joint.gather(dim, index).squeeze(dim)
            left.remove(label)
        return Scores(joint, tuple(left), {}, ())

    def draw(self) -> dict[str, Tensor]:
        """One exact draw of all labels given everything else, as places ``(S, B)``."""
        if not self.labels:
            return {}
        sizes = self.log_joint.shape[:-2]
        flat = dist.Categorical(logits=self.log_joint.flatten(0, -3).movedim(0, -1)).sample()
        return dict(zip(self.labels, torch.unravel_index(flat, sizes), strict=True))

    def probs(self, label: str) -> Tensor:
        """Probabilities of a label given everything but the labels ``(S, B, C)``."""
        joint = self.log_joint.movedim(self.labels.index(label), -1)
        others = tuple(range(len(self.labels) - 1))
        return (joint.logsumexp(others) if others else joint).softmax(-1)


def score(
    model: Callable[[Batch], Any],
    batch: Batch,
    values: Mapping[str, Tensor],
    labels: Sequence[str],
    draws: int,
    nesting: int = 1,
) -> Scored:
    """Evaluate the model at draws, for every value of the labels.

    Args:
        model: The model.
        batch: What is observed.
        values: Draws ``(S, P, B, *event)`` of the other latent sites.
        labels: Latent sites to enumerate.
        draws: S.
        nesting: Number of plate dimensions, the data plate included.
    """

    def mark(site: Any) -> dict[str, Any]:
        return {"enumerate": "parallel"} if site["name"] in labels else {}

    marked = poutine.infer_config(poutine.condition(model, data=dict(values)), mark)
    with EnumMessenger(first_available_dim=-2 - nesting):
        trace = poutine.trace(marked).get_trace(batch)
    nodes = dict(random_sites(trace))
    if nesting > 1:
        data = [name for name in batch if name in nodes]
        return plated(nodes, labels, data, draws, batch.count, nesting)
    order = tuple(sorted(labels, key=lambda name: nodes[name]["infer"]["_enumerate_dim"]))
    sizes = [len(nodes[name]["fn"].enumerate_support(expand=False)) for name in order]
    logs = {
        name: scale_and_mask(
            _log_prob(node["fn"], node["value"]),
            # A masked label is not there: its values still sum to one.
            mask=None if name in labels else node["mask"],
        )
        for name, node in nodes.items()
    }
    log_joint = _add(logs).expand(*sizes, draws, batch.count)
    return Scores(log_joint, order, logs, tuple(name for name in batch if name in nodes))


def _log_prob(fn: Any, value: Tensor) -> Tensor:
    """Log density of a site; that of a vector of Bernoullis part by part.

    PyTorch forms four tensors of the size of all logits, which fit no cache where labels are
    summed out; one label at a time takes half as long.
    """
    base = base_of(fn, through_masks=False)
    usual = getattr(type(base), "log_prob", None) is torch.distributions.Bernoulli.log_prob
    vector = len(fn.event_shape) == 1 and usual and "logits" in vars(base)
    if not vector or value.dim() >= base.logits.dim():
        log_prob: Tensor = fn.log_prob(value)
        return log_prob
    parts = [F.softplus(logits).neg_().addcmul_(logits, value).sum(-1) for logits in base.logits]
    return torch.stack(parts)


def _over_plates(value: Tensor, nesting: int) -> Tensor:
    """``(S, P, B)`` with plates within the row summed: ``(S, B)``."""
    return value.sum(tuple(range(-nesting, -1))) if nesting > 1 else value


def log_likelihoods(scores: Scored) -> dict[str, dict[str, Tensor]]:
    """Log-likelihoods ``(S, B)`` by group: one of all data of a row, and where several, of each.

    ``log_likelihood`` holds one variable, as ``az.loo`` and ``az.compare`` expect it: that of the
    data site, or of all together under the name ``data``. Each by itself, given the others, is in
    ``log_likelihood_by_site``.
    """
    every = tuple(scores.data)
    if len(every) < 2:
        return {"log_likelihood": {name: scores.log_likelihood(every) for name in every}}
    return {
        "log_likelihood": {TOGETHER: scores.log_likelihood(every)},
        "log_likelihood_by_site": {name: scores.log_likelihood((name,)) for name in every},
    }


def _add(logs: Mapping[str, Tensor]) -> Tensor:
    terms = list(logs.values())
    return sum(terms[1:], terms[0]) if terms else torch.zeros(())


def _sum_out(log_joint: Tensor) -> Tensor:
    labels = tuple(range(log_joint.dim() - 2))
    return log_joint.logsumexp(labels) if labels else log_joint


def draw_data(
    model: Callable[[Batch], Any],
    batch: Batch,
    values: Mapping[str, Tensor],
    draws: int,
    nesting: int = 1,
) -> dict[str, Tensor]:
    """Draw what the batch does not observe, given latent values ``(S, P, B, *event)``.

    Returns:
        ``(S, P, B, *event)`` by site.
    """
    with Many(draws, nesting=nesting):
        trace = poutine.trace(poutine.condition(model, data=dict(values))).get_trace(batch)
    return {name: node["value"] for name, node in latent_sites(trace)}
