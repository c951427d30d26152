"""Plate diagrams of a pair's story and guide, as Mermaid text that a docs page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyro import poutine

from ppl_models.covariates import emptied
from ppl_models.guides.inverse_guide import dependencies
from ppl_models.guides.protocol import listed
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.prior_rows import draw_rows
from ppl_models.sample_sites import is_local

ROWS = 4
LOOKS = {
    "data": "fill:#bbb,stroke:#333",  # shaded: always observed
    "label": "fill:#eee,stroke:#333,stroke-dasharray:4",  # observed in some rows
    "latent": "fill:#fff,stroke:#333",
    "covariate": "fill:#ddf,stroke:#333",  # conditioned on, never scored
}


def diagrams(pair: Pair) -> tuple[str, str]:
    """The story's diagram, and the guide's (empty if the guide lists no factors).

    Args:
        pair: A pair; its model is run on rows drawn from itself.

    Returns:
        Two Mermaid flow charts: data shaded, labels that some rows lack dashed, sites that
        belong to rows inside the plate. In the guide's, a site points at what is given it.
    """
    card = pair.card
    batch = draw_rows(pair, ROWS)
    story = dependencies(pair.model, batch.only(*card.given))
    trace = poutine.trace(pair.model).get_trace(emptied(pair, batch))
    rows = [name for name in story if name not in trace or is_local(trace.nodes[name])]
    marks = set(map(mark, pair.may_lack))  # of what a row has, and no sites
    given = (listed(pair.guide) or {}).items()
    guide = {name: [site for site in sites if site not in marks] for name, sites in given}
    sampled = poutine.trace(pair.guide).get_trace(batch.only(*card.given))
    told = {*card.data, *sampled.nodes, *(name for given in guide.values() for name in given)}
    return (
        _chart(pair, story, story, rows),
        _chart(pair, [n for n in story if n in told], guide, rows) if guide else "",
    )


def _chart(
    pair: Pair, names: Iterable[str], parents: Mapping[str, Sequence[str]], rows: Sequence[str]
) -> str:
    # Numbers for names: some words mean something to Mermaid.
    number = {name: f"n{place}" for place, name in enumerate(names)}
    lines = ["flowchart TD"]
    inside = [f'    {i}(("{n}")):::{_kind(pair, n)}' for n, i in number.items() if n in rows]
    lines += [f'  {i}(("{n}")):::{_kind(pair, n)}' for n, i in number.items() if n not in rows]
    lines += ['  subgraph plate["rows"]', *inside, "  end"]
    for child, given in parents.items():
        lines += [f"  {number[parent]} --> {number[child]}" for parent in given]
    kinds = {_kind(pair, name) for name in number}
    usual = [kind for kind in LOOKS if kind != "covariate" or kind in kinds]
    lines += [f"  classDef {kind} {LOOKS[kind]}" for kind in usual]
    return "\n".join(lines)


def _kind(pair: Pair, name: str) -> str:
    if name in pair.card.labels:
        return "label"
    if name in pair.card.covariates:
        return "covariate"
    return "data" if name not in pair.card.latents else "latent"
