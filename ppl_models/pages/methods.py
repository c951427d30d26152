"""The docs page of objectives, terms and algorithms: what each takes, found out by trying it.

Written with the other pages by ``python -m ppl_models.pages.describe docs/``.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any, get_args, get_type_hints

from ppl_models import inference
from ppl_models.inference.diagnostics.methods import methods, term_of
from ppl_models.inference.diagnostics.tiny_pairs import KINDS, probe, probe_table
from ppl_models.inference.objectives.by_name import BOUNDS, TERMS
from ppl_models.inference.objectives.elbo import EnumeratedELBO
from ppl_models.pages.tables import table

ESTIMATORS = (
    "grad",
    "baseline",
    "inside",
    "logq",
    "prior",
    "estimator",
)  # options that choose an estimator


def rows() -> list[dict[str, str]]:
    """One row per objective, term and algorithm; the values are cells of the table."""
    found: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        for method in methods(probe(kind), probe_table()):
            row = found.setdefault(method.name, {"method": method.name, "kind": method.kind})
            row[kind] = "yes" if method.applies else ""
    for name, row in found.items():
        taken = BOUNDS.get(name) or TERMS.get(name) or getattr(inference, name)
        options = _choices(taken)
        row["estimators"] = "; ".join(
            f"{o}: {', '.join(map(str, options[o]))}" for o in ESTIMATORS if o in options
        )
        row["backends"] = ", ".join(options.get("backend", ["torch"]))
        row["chunks"] = "yes" if "chunk" in inspect.signature(taken).parameters else ""
        row["compiles"] = "yes" if row["kind"] != "algorithm" and _compiles(name, row) else ""
    return list(found.values())


def _choices(function: Any) -> dict[str, list[Any]]:
    own = [vars(base) for base in getattr(function, "__mro__", ())]  # a term may inherit its own
    target = next((members["__init__"] for members in own if "__init__" in members), function)
    hints = get_type_hints(target)
    return {
        name: [True, False] if hint is bool else list(get_args(hint))
        for name, hint in hints.items()
        if hint is bool or "Literal" in str(hint)
    }


def _compiles(name: str, row: dict[str, str]) -> bool:
    """Whether a step traces to a graph, on the first kind of sites that the objective takes."""
    from ppl_models.inference.training.compiled_step import Compiled

    kind = next((kind for kind in KINDS if row[kind]), None)
    if kind is None:  # a guide of its own is needed
        return False
    pair = probe(kind)
    (batch,) = probe_table().batches()
    bound = BOUNDS.get(name, EnumeratedELBO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = bound()
        if name not in BOUNDS:
            term = term_of(name, pair, (batch,), objective)
            assert term is not None  # the row says so
            objective = objective + term
        step = Compiled(objective, pair, list(pair.parameters()), (), lambda graph, _: graph)
        return step.gradient((batch,), batch.count) is not None


def page(found: list[dict[str, str]]) -> str:
    """The page made of :func:`rows`, as Markdown."""
    heads = ["method", "kind", *KINDS, "estimators", "backends", "chunks", "compiles"]
    cells = [[f"`{row['method']}`", *(row[head] for head in heads[1:])] for row in found]
    kinds = "\n".join(f"- *{name}*: {kind.about}" for name, kind in KINDS.items())
    return f"""# Objectives, terms and algorithms

What each takes, by kind of latent sites. A cell says *yes* where the method ran on a pair with
such sites and, for an objective, its gradient reached every parameter of the guide; a term
added something, of some site, to an objective. For a pair of your own ask
`inference.methods(pair, data)`, which also says why the others do not apply.

{kinds}

{table(heads, cells)}

*Estimators* are the options that choose one, *backends* those that contract sums over labels,
*chunks* says whether labels can be summed a few values at a time, and *compiles* whether
`fit(..., compile=True)` takes it.

Written by `python -m ppl_models.pages.describe docs/`.
"""
