"""Named checks of a pair on some rows, before the long run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.util import check_site_shape
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.covariates import emptied
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import Progress, follows_progress
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.posterior.points_by_row import lent_points
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.traces.nesting import nesting_of, widest
from ppl_models.inference.traces.sites import (
    Program,
    combinations,
    enumerable,
    latent_sites,
    random_sites,
)
from ppl_models.modalities import has
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import COMBINATIONS, DATA, base_of, is_local, is_plate

ROWS = 100  # of each kind, that the checks look at
MIDST = 0.5  # of training: where weights are looked at that grow from 0


@dataclass(frozen=True)
class Check:
    """One check on one kind of rows.

    Attributes:
        name: What was checked.
        rows: The kind of rows, by what is observed in them.
        problem: What is wrong, empty where nothing is.
        detail: What was found.
    """

    name: str
    rows: str
    problem: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All checks; prints as a table."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check found a problem."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that found one."""
        return tuple(c for c in self.checks if c.problem)

    def __str__(self) -> str:
        """One line per check."""
        lines = [("check", "rows", "", "found")]
        for c in self.checks:
            lines.append((c.name, c.rows, "PROBLEM" if c.problem else "ok", c.problem or c.detail))
        widths = [max(len(line[i]) for line in lines) for i in range(3)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, [*widths, 0], strict=True)).rstrip()
            for line in lines
        )


def debug(
    pair: Pair, data: Batch | Table | Dataset, objective: Objective | None = None, seed: int = 0
) -> Report:
    """Check a pair on a few rows of every kind; print the table and return it.

    Rows that may lack some sites of the data (``pair.may_lack``) and do not are looked at once
    more with each of these sites alone.

    - *runs*: model and guide run on the rows, and on none (a draw from the prior).
    - *sites*: every latent site of the model is sampled by the guide or can be enumerated, and
      the guide samples nothing else.
    - *plate*: row-wise sites stand in the plate ``data``, rightmost, one row each, weighted N/B.
    - *support*: observed values lie in their site's support, and the guide's in the model's.
    - *enumeration*: the discrete sites that are summed out, with their number of values.
    - *log density*: finite at every site, in model and guide.
    - *loss*: the objective takes the pair, and is finite on every row.
    - *gradient*: finite, and in some kind of rows not zero, for every parameter, at the start of
      training or, where weights grow from 0, in its midst.

    Args:
        pair: The pair; left as it was.
        data: A batch, or rows of which up to 100 of each kind are taken.
        objective: In place of the paper's own.
        seed: Seed of the draws; the global random state stays as it was.

    Returns:
        The table, of which ``ok`` says whether all is well.
    """
    like = pair.like()
    batches = [b.to(like.device, like.dtype) for b in rows_of_each_kind(pair, data, ROWS)]
    found: list[Check] = []
    reached: set[str] = set()
    with (
        quiet(like.device, seed, pair),
        lent_points(pair, data),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for batch in batches:
            found += _check(pair, batch, objective, reached)
    if not any(c.problem and c.name in ("runs", "loss") for c in found):
        missing = [n for n, p in pair.named_parameters() if p.requires_grad and n not in reached]
        text = f"no gradient reaches {', '.join(map(repr, missing))}" if missing else ""
        found.append(Check("gradient", "all kinds", text, "every parameter gets one"))
    report = Report(tuple(found))
    print(report)
    return report


def rows_of_each_kind(pair: Pair, data: Batch | Table | Dataset, rows: int) -> list[Batch]:
    """The first rows of each kind, by what is observed in them; a batch as it is.

    Where rows may lack some sites and none does, the first of them come once more with each of
    these sites alone.
    """
    if isinstance(data, Batch):
        found = [data]
    else:
        table = as_fitted(pair, data.train if isinstance(data, Dataset) else data)
        found = [next(table.batches(r.index[:rows])) for r in table.regimes()]
    if all(has(batch, site) is True for batch in found for site in pair.may_lack):
        found += [found[0].without(*{*pair.may_lack} - {site}) for site in pair.may_lack]
    return found


def _check(
    pair: Pair, batch: Batch, objective: Objective | None, reached: set[str]
) -> Iterator[Check]:
    kind = ", ".join(batch) or "nothing observed"
    plan = pair.stages() if objective is None else (Stage(objective),)
    # Particles and labels take dimensions left of all plates.
    said = widest(stage.objective.max_plate_nesting for stage in plan)
    first_dim = -2 - nesting_of(pair.model, said)
    try:
        prior = poutine.trace(pair.model).get_trace(emptied(pair, batch).unscaled())
        if outside := _outside(prior, batch):  # would only fail later, and less clearly
            yield Check("support", kind, outside)
            return
        guide = poutine.trace(EnumMessenger(first_dim)(_Enumerate()(pair.guide))).get_trace(batch)
        model = poutine.trace(
            EnumMessenger()(_Enumerate()(poutine.replay(pair.model, trace=guide)))
        ).get_trace(batch)
    except Exception as error:  # whatever a user's own code raises is the finding
        yield Check("runs", kind, f"{type(error).__name__}: {_line(error)}")
        return
    yield Check("runs", kind, "", "model, guide and prior")
    traces = {"model": model, "guide": guide}
    checks: dict[str, Callable[[], tuple[list[str], str]]] = {
        "sites": lambda: _sites(model, guide, pair.card.density),
        "plate": lambda: _plate({**traces, "prior": prior}, batch, -2 - first_dim),
        "support": lambda: _support(model),
        "enumeration": lambda: _enumeration(guide, model),
        "log density": lambda: _density(traces, batch),
    }
    for name, check in checks.items():
        problems, detail = check()
        yield Check(name, kind, "; ".join(problems), detail)
    for stage in plan:
        if stage.observed and stage.observed not in batch:
            continue
        rows = batch.only(*stage.sites, *pair.card.covariates) if stage.sites else batch
        if stage.prepare is not None:
            with torch.no_grad():
                rows = stage.prepare(rows)
        yield from _gradient(stage.pair or pair, pair, rows, stage.objective, reached)


class _Enumerate(poutine.messenger.Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not is_plate(msg):
            msg["fn"] = combinations(msg["fn"], COMBINATIONS)
        if not msg["is_observed"] and enumerable(msg["fn"]):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


def _sites(model: poutine.Trace, guide: poutine.Trace, density: str) -> tuple[list[str], str]:
    wanted = dict(latent_sites(model))
    given = dict(latent_sites(guide))
    problems = [
        f"the guide samples {name!r}, which is no latent site of the model"
        for name in given
        if name not in wanted
    ]
    for name, site in wanted.items():
        if name not in given and not enumerable(combinations(site["fn"], COMBINATIONS)):
            problems.append(
                f"nobody samples {name!r}: the guide lacks it, it cannot be enumerated"
            )
    observed = [name for name, site in random_sites(model) if site["is_observed"]]
    if not observed and density == "data":
        problems.append("the model observes nothing")
    told = ", ".join(observed) or "none"
    return problems, f"latent {', '.join(wanted) or 'none'}; observed {told}"


def _plate(traces: dict[str, Any], batch: Batch, nesting: int) -> tuple[list[str], str]:
    problems = []
    for where, trace in traces.items():
        for name, site in random_sites(trace):
            site = {**site, "log_prob": site["fn"].log_prob(site["value"])}
            try:
                check_site_shape(site, nesting)
            except ValueError as error:
                hint = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
                problems.append(f"{name!r} ({where}): log density of a wrong shape ({hint})")
                continue
            if where == "prior" and len(site["fn"].batch_shape) > nesting:
                # Nothing is enumerated here, so nothing may stand left of the plates.
                problems.append(
                    f"{name!r} has batch shape {tuple(site['fn'].batch_shape)}, expected "
                    f"{nesting} plate dimensions at most: is .to_event missing?"
                )
            if not is_local(site):
                if site["is_observed"]:
                    problems.append(f"{name!r} is observed outside the plate 'data' ({where})")
                continue
            (frame,) = (f for f in site["cond_indep_stack"] if f.name == DATA)
            if frame.dim != -1 or frame.size != batch.count:
                problems.append(
                    f"the plate 'data' has dim {frame.dim} and {frame.size} rows at {name!r} "
                    f"({where}), expected dim -1 and {batch.count}"
                )
            elif where != "prior" and not _is_scale(site["scale"], batch.scale):
                problems.append(
                    f"{name!r} counts {_number(site['scale'])} times ({where}), expected N/B = "
                    f"{batch.scale:g}"
                )
    return problems, f"{batch.count} of {batch.size} rows"


def _is_scale(scale: Any, expected: float) -> bool:
    return not isinstance(scale, Tensor) and abs(scale - expected) < 1e-9 * expected


def _number(scale: Any) -> str:
    return "a varying number of" if isinstance(scale, Tensor) else f"{scale:g}"


def _outside(prior: poutine.Trace, batch: Batch) -> str:
    for name, value in batch.items():
        site = prior.nodes.get(name)
        if site is not None and not bool(_inside(site, value).all()):
            return f"observed values of {name!r} leave the support {_support_of(site)}"
    return ""


def _support(model: poutine.Trace) -> tuple[list[str], str]:
    sites = list(random_sites(model))
    problems = [
        f"the guide's values of {name!r} leave the support {_support_of(site)}"
        for name, site in sites
        if not bool(_inside(site, site["value"]).all())
    ]
    return problems, f"{len(sites)} sites"


def _inside(site: Any, value: Tensor) -> Tensor:
    inside: Tensor = base_of(site["fn"]).support.check(value)
    inside = inside.reshape(inside.shape + (1,) * (value.dim() - inside.dim()))  # of vectors
    return inside & value.isfinite()


def _support_of(site: Any) -> str:
    return str(base_of(site["fn"]).support)


def _enumeration(guide: poutine.Trace, model: poutine.Trace) -> tuple[list[str], str]:
    sizes: dict[str, int] = {}
    problems = []
    for trace in (guide, model):
        for name, site in latent_sites(trace):
            dim = site["infer"].get("_enumerate_dim")
            if dim is None:
                if not site["fn"].has_rsample and name not in sizes:
                    problems.append(
                        f"{name!r} can be neither enumerated nor reparameterised: it needs a "
                        "score-function or wake-sleep objective, or a relaxation"
                    )
                continue
            sizes.setdefault(name, site["value"].shape[dim - site["fn"].event_dim])
            if not is_local(site):
                problems.append(f"{name!r} is enumerated outside the plate 'data'")
    text = ", ".join(f"{name} ({size} values)" for name, size in sizes.items())
    return list(dict.fromkeys(problems)), text or "none"


def _density(traces: dict[str, Any], batch: Batch) -> tuple[list[str], str]:
    problems = []
    for where, trace in traces.items():
        for name, site in random_sites(trace):
            if site["mask"] is False:  # data that are made and not scored
                continue
            log_prob = site["fn"].log_prob(site["value"])
            bad = ~log_prob.isfinite()
            if isinstance(site["mask"], Tensor):
                bad = bad & site["mask"]
            if bool(bad.any()):
                place = ""
                if log_prob.dim() and log_prob.shape[-1] == batch.count:
                    first = int(bad.reshape(-1, batch.count).any(0).nonzero()[0])
                    place = f", first at row {int(batch.rows[first])}"
                problems.append(f"{name!r} is not finite in the {where}{place}")
    return problems, "finite at every site"


def _gradient(
    trained: Program, whole: Pair, batch: Batch, objective: Objective, reached: set[str]
) -> Iterator[Check]:
    kind = ", ".join(batch) or "nothing observed"
    names = {n: p for n, p in whole.named_parameters() if p.requires_grad}
    try:
        loss = objective.by_row(trained.model, trained.guide, batch)
        if loss.shape != (batch.count,):
            text = f"a loss of shape {tuple(loss.shape)}, expected ({batch.count},)"
            yield Check("loss", kind, text)
            return
        grads = torch.autograd.grad(loss.sum(), list(names.values()), allow_unused=True)
    except Exception as error:  # of the pair or of an objective that does not take it
        yield Check("loss", kind, f"{type(error).__name__}: {_line(error)}")
        return
    bad = ~loss.isfinite()
    where = int(batch.rows[int(bad.nonzero()[0])]) if bool(bad.any()) else -1
    text = f"not finite, first at row {where}" if where >= 0 else ""
    yield Check("loss", kind, text, f"{float(loss.mean()):.4g} nats per row")
    for (name, _), grad in zip(names.items(), grads, strict=True):
        if grad is None:
            continue
        if not bool(grad.isfinite().all()):
            yield Check("gradient", kind, f"not finite for parameter {name!r}")
            reached.add(name)
        elif bool(grad.any()):
            reached.add(name)
    if follows_progress(objective) and names.keys() - reached:
        # Terms whose weight is 0 at the start say nothing of their parameters there.
        began = objective.progress
        objective.at(Progress(MIDST, 0))
        loss = objective.by_row(trained.model, trained.guide, batch).sum()
        grads = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
        objective.at(began)
        given = zip(names, grads, strict=True)
        reached.update(name for name, grad in given if grad is not None and bool(grad.any()))


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""
