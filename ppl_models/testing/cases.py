"""Small pairs, rows of every kind and fixed draws: what the contract test evaluates."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from ppl_models import catalogue
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import Evaluation, Objective
from ppl_models.inference.objectives.composition import networks_in
from ppl_models.inference.traces.sites import Program, latent_sites, random_sites
from ppl_models.pair import Pair
from ppl_models.prior_rows import draw_rows, some_rows
from ppl_models.sample_sites import base_of, is_local, plates_within
from ppl_models.testing.fixed_draws import FixedDraws

ROWS = 7
# All rows in another order; then each once more in fewer others' company, or in none.
COMPANIES = ([6, 2, 0, 5, 1, 4, 3], [3, 1], [5], [0, 6, 4, 2])
DATA_SIZE, CLASSES, FIRST_SIZE = 9, 3, 4  # of small pairs; further integers count up from 4
IMAGE = (4, 3)  # height and width of their images
MOST = 4  # entries of a tuple; of longer ones the first, the middle and the last
# A paper's file tells its story; loops, flags, plots, downloads and devices live elsewhere.
FOREIGN_IMPORTS = {"argparse", "matplotlib", "pooch", "requests", "tqdm", "urllib"}
FOREIGN_CALLS = {"backward", "clear_param_store", "cuda", "manual_seed", "param", "print"}


def foreign(text: str) -> set[str]:
    """Names of what a paper's file imports or calls that belongs elsewhere."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names} & FOREIGN_IMPORTS
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & FOREIGN_IMPORTS
        elif isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", None) or getattr(called, "id", "")
            found |= {str(name)} & FOREIGN_CALLS
    return found


def small_settings(cls: type[Pair]) -> dict[str, Any]:
    """Settings that make a pair small, read off its config's fields.

    Args:
        cls: Class of the pair.

    Returns:
        By field name: 9 or (labels) 3 for sizes that come from the data, 4 x 3 pixels of at most
        3 channels for shapes, at most 4, 5, 6, ... for other integers, and at most 5 in each
        entry of a tuple, of which more than 4 are the first, the middle and the last.
    """
    settings: dict[str, Any] = {}
    sizes = itertools.count(FIRST_SIZE)
    shapes: dict[str, tuple[int, ...]] = {}
    for field in dataclasses.fields(cls.Config):
        if image := field.metadata.get("shape_from"):
            channels: Any = field.default
            shapes[image] = (*IMAGE, min(channels[-1], CLASSES))
    for field in dataclasses.fields(cls.Config):
        default, site = field.default, field.metadata.get("from_data")
        if image := field.metadata.get("shape_from"):
            settings[field.name] = shapes[image]
        elif site in shapes:
            settings[field.name] = math.prod(shapes[site])
        elif site is not None and not isinstance(default, tuple):
            settings[field.name] = CLASSES if site in cls.card.labels else DATA_SIZE
        elif isinstance(default, int) and not isinstance(default, bool):
            settings[field.name] = min(default, next(sizes))
        elif isinstance(default, tuple) and all(type(entry) is int for entry in default):
            if len(default) > MOST:
                default = (default[0], default[len(default) // 2], default[-1])
            settings[field.name] = tuple(min(entry, 5) for entry in default)
    return settings


def numbers(size: int | tuple[int, ...]) -> int:
    """How many numbers a row has, from its size or its shape."""
    return math.prod(size) if isinstance(size, tuple) else size


def label_priors(
    name: str, small: Mapping[str, Any]
) -> Iterator[tuple[str, Pair, dict[str, list[float]]]]:
    """A pair under every kind of prior over its labels, and what each should give the classes.

    Args:
        name: As :func:`ppl_models.build` takes it.
        small: Settings of the small pair.

    Yields:
        The kind, the pair in float64 and probabilities by label; nothing without the setting.
    """
    fields = {f.name: f for f in dataclasses.fields(catalogue.get(name).Config)}
    for key, field in fields.items():
        if (of := field.metadata.get("prior_of")) is None:
            continue
        pair = catalogue.build(name, **small)
        sites = getattr(pair.config, of) if of in fields else (of,)
        trace = poutine.trace(pair.model).get_trace(some_rows(pair, 1))
        classes = {site: len(trace.nodes[site]["fn"].enumerate_support()) for site in sites}
        even = {site: [1 / count] * count for site, count in classes.items()}
        rising = {s: [2 * (c + 1) / n / (n + 1) for c in range(n)] for s, n in classes.items()}
        # Class c in c + 1 rows; the labels with fewer classes are hidden in the rest.
        codes = {s: [c for c in range(n) for _ in range(c + 1)] for s, n in classes.items()}
        rows = max(map(len, codes.values()))
        values = {s: torch.tensor(v + [-1] * (rows - len(v))) for s, v in codes.items()}
        table = Table("contract", values, observed={s: v >= 0 for s, v in values.items()})
        given = tuple(itertools.chain.from_iterable(rising.values()))
        for kind, value, data, wanted in (
            ("uniform", "uniform", None, even),
            ("learnt", "learnt", None, even),
            ("frequencies", "frequencies", table, rising),
            ("given", given, None, rising),
        ):
            settings = {**small, key: value}
            yield kind, catalogue.build(name, data, **settings).double(), wanted


@dataclasses.dataclass(frozen=True)
class Case:
    """One stage of a paper's training on rows of one kind, as the objective sees them."""

    pair: Program
    objective: Objective
    batch: Batch

    def float(self) -> Case:
        """The same, the networks beside the pair in single precision."""
        for network in networks_in(self.objective):
            network.float()
        return self

    def draws(self) -> poutine.Trace:
        """One run of the guide, every discrete site enumerated."""
        run = Evaluation(self.pair.model, self.pair.guide, self.batch)
        return self.objective.evaluation(run).weights().guide

    def fresh_loss(self) -> Tensor:
        """The loss per row ``(B,)`` at fresh draws, in the company of the others."""
        return self.objective.by_row(self.pair.model, self.pair.guide, self.batch)

    def loss(self, batch: Batch, draws: Mapping[str, Tensor]) -> Tensor:
        """The same at given draws of the guide; what the model makes up is made of them, too."""
        model, guide = (FixedDraws(f, draws) for f in (self.pair.model, self.pair.guide))
        return self.objective.by_row(model, guide, batch)

    def total(self, draws: Mapping[str, Tensor]) -> Tensor:
        """The loss of all rows and of the sites outside the plate, at given draws of the guide.

        What a critic judges has its gradient through the draws, which are then fresh.
        """
        model, guide = self.pair.model, self.pair.guide
        if not list(networks_in(self.objective)):
            model, guide = (FixedDraws(f, draws) for f in (model, guide))
        return self.objective.differentiable_loss(model, guide, self.batch)


class _RowLoss(nn.Module):
    """The loss of one row as a function of the parameters, for ``torch.func``."""

    def __init__(self, case: Case, event_dims: Mapping[str, int]) -> None:
        super().__init__()
        self.pair, self.case, self.event_dims = case.pair, case, event_dims

    def forward(
        self, sites: Mapping[str, Tensor], row: Tensor, draws: Mapping[str, Tensor]
    ) -> Tensor:
        like = self.case.batch
        batch = Batch(
            {name: value.unsqueeze(0) for name, value in sites.items()},
            row.unsqueeze(0),
            size=like.size,
            total=like.total,
            observed=like.observed,
        )
        dims = self.event_dims
        fixed = {n: v.unsqueeze(-1 - dims[n]) if n in dims else v for n, v in draws.items()}
        return self.case.loss(batch, fixed)[0]


def kinds(pair: Pair, rows: int) -> list[Batch]:
    """The same rows with every combination of labels observed, none first.

    Sites that rows may lack come besides one at a time.
    """
    full, labels = draw_rows(pair, rows), pair.card.labels
    found = [
        full.only(*pair.card.given, *seen)
        for count in range(len(labels) + 1)
        for seen in itertools.combinations(labels, count)
    ]
    lacking = set(pair.may_lack)
    return found + [full.without(*lacking - {site}) for site in pair.may_lack]


def cases(
    pair: Pair, batches: Iterable[Batch] | None = None, bound: Objective | None = None
) -> Iterator[Case]:
    """Every stage of the paper's training on every batch that it takes.

    Args:
        pair: The pair.
        batches: The batches; 7 rows of every kind by default.
        bound: In place of the paper's bound.
    """
    for batch in kinds(pair, ROWS) if batches is None else batches:
        for stage in pair.stages(bound):
            if stage.observed and stage.observed not in batch:
                continue
            seen = batch.only(*stage.sites, *pair.card.covariates) if stage.sites else batch
            if stage.prepare is not None:
                with torch.no_grad():
                    seen = stage.prepare(seen)
            yield Case(stage.pair or pair, stage.objective, seen)


def sampled(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, without plates."""
    return dict(random_sites(trace))


def latent(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace that are not observed, by name."""
    return dict(latent_sites(trace))


def enumerated(trace: poutine.Trace) -> dict[str, Any]:
    """The sites of a trace that were enumerated, by name."""
    return {n: s for n, s in latent(trace).items() if "_enumerate_dim" in s["infer"]}


def plate_sizes(site: Any) -> list[int]:
    """Sizes of the plates within the rows that a site stands in, as its batch shape has them."""
    return [frame.size for frame in reversed(plates_within(site))]


def full_shape(rows: int, sites: Mapping[str, Any], labels: Mapping[str, Any]) -> list[int]:
    """The batch shape that all sites broadcast to.

    Args:
        rows: Number of rows.
        sites: The sites of a model.
        labels: Those that are enumerated.
    """
    full = [1] * 8 + [rows]
    for site in sites.values():
        for frame in plates_within(site):
            full[frame.dim] = frame.size
    for site in labels.values():
        dim = site["infer"]["_enumerate_dim"]
        full[dim] = site["value"].shape[dim - site["fn"].event_dim]
    return full


def depends_on_itself(pair: Pair, batch: Batch) -> bool:
    """Whether the prior of an enumerated label depends on its value, through other sites.

    Pyro's checks take that for granted of a label in a plate within the rows.
    """
    w = Evaluation(pair.model, pair.guide, batch).weights()
    return any(plate_sizes(site) for site in enumerated(w.model).values()) or any(
        site["fn"].batch_shape[dim] > 1
        for site in enumerated(w.model).values()
        if len(site["fn"].batch_shape) >= -(dim := site["infer"]["_enumerate_dim"])
    )


def to_single(pair: Pair, cases: Iterable[Case]) -> None:
    """Bring a pair to single precision, and the networks that objectives hold, such as critics."""
    pair.float()
    for network in (n for case in cases for n in networks_in(case.objective)):
        network.float()


def pick(
    trace: poutine.Trace,
    rows: Sequence[int] | None = None,
    labels: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """Values of the sites that were drawn, for some rows and one value of each label.

    Args:
        trace: A guide's trace, discrete sites enumerated.
        rows: Positions of the rows; all by default.
        labels: Places in the support of each enumerated site, one of each entry of its plate
            within the rows, or a single one; the whole support by default.
    """
    values = {}
    for name, site in latent(trace).items():
        value, event_dim = site["value"], site["fn"].event_dim
        if name in enumerated(trace) or isinstance(base_of(site["fn"]), dist.Delta):
            continue  # a point is no draw: it follows from what it is given
        for label, places in (labels or {}).items():
            axis = trace.nodes[label]["infer"]["_enumerate_dim"] - event_dim
            if value.dim() >= -axis:
                places = places if value.shape[axis] > 1 else [0]
                chosen = [value.narrow(axis, place, 1) for place in places]
                # The k-th entry of a plate has the label at its k-th place.
                inner = -2 - event_dim
                own = (
                    [v.narrow(inner, k, 1) for k, v in enumerate(chosen)] if chosen[1:] else chosen
                )
                value = torch.cat(own, inner)
        if labels:
            value = value.reshape(value.shape[-len(site["cond_indep_stack"]) - event_dim :])
        if rows is not None and is_local(site):
            value = value.index_select(-1 - event_dim, torch.tensor(rows))
        values[name] = value.detach()
    return values


def log_density(sites: Mapping[str, Any]) -> Tensor:
    """Log density of sites in the data plate, per row ``(B,)``, without the plate's N / B."""
    terms = [
        scale_and_mask(s["fn"].log_prob(s["value"]), mask=s["mask"])
        for s in sites.values()
        if is_local(s)
    ]
    # Plates within the rows stand left of them.
    return sum((term.reshape(-1, term.shape[-1]).sum(0) for term in terms), torch.zeros(()))


def subset(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch, by position; they stand for as many rows as the batch did."""
    index = torch.tensor(rows)
    sites = {name: value[index] for name, value in batch.items()}
    return Batch(
        sites, batch.rows[index], size=batch.size, total=batch.total, observed=batch.observed
    )


def gradients_by_row(
    case: Case, trace: poutine.Trace, draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``vmap(grad(...))`` of the loss over rows.

    Args:
        case: What is trained on which rows.
        trace: Its guide's trace.
        draws: Values of all sites of the guide; none for fresh draws, the same noise in every
            row (torch's in-place ``normal_`` allows no other under ``vmap``).

    Returns:
        ``(B, ...)`` by the parameter's name in the pair.
    """
    events = {name: trace.nodes[name]["fn"].event_dim for name in draws}
    # What all rows share has no axis of rows.
    local = [name for name in draws if is_local(trace.nodes[name])]
    axes = {n: v.dim() - 1 - events[n] if n in local else None for n, v in draws.items()}
    module = _RowLoss(case, {name: events[name] for name in local})

    def loss(weights: dict[str, Tensor], sites: Any, row: Tensor, draws: Any) -> Tensor:
        # With ties, a module that stands under two names would not get its weights back.
        value: Tensor = torch.func.functional_call(
            module, weights, (sites, row, draws), tie_weights=False
        )
        return value

    weights = {name: p.detach() for name, p in module.named_parameters()}
    by_row = torch.func.vmap(
        torch.func.grad(loss), in_dims=(None, 0, 0, axes or None), randomness="same"
    )
    with pyro.validation_enabled(False):
        grads = by_row(weights, dict(case.batch), case.batch.rows, dict(draws))
    return {name.removeprefix("pair."): grad for name, grad in grads.items()}
