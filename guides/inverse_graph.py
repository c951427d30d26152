"""Faithful inversion of a directed graph: which sites each factor of a guide must be given."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

Graph = Mapping[str, Iterable[str]]


def faithful_inverse(
    parents: Graph,
    observed: Collection[str],
    mode: Literal["forward", "reverse"] = "forward",
    first: Iterable[Collection[str]] = (),
) -> dict[str, tuple[str, ...]]:
    """A minimal factorisation of p(latents | observed) that asserts nothing the model denies.

    Algorithm 1 (NaMI) of Webb et al. 2018 (arXiv 1712.00287): latents are eliminated one by
    one, by the min-fill rule among those whose turn it is, and each is given its neighbours
    that are not yet eliminated. Sampling runs backwards. Two departures: neighbours are taken
    in the moral graph of the ancestors of what is left, not of all sites, so that a latent
    without observed descendants does not tie its parents together; and groups of sites can
    be put first.

    Args:
        parents: Parents of every site in the model.
        observed: Sites that are observed.
        mode: ``"forward"`` eliminates causes before effects (TopMode in the paper), so that
            the guide samples from the data upwards; ``"reverse"`` the other way round.
        first: Groups of latents to be sampled before all others, group by group.

    Returns:
        By latent, in the order of sampling: the sites that its factor is given.

    Raises:
        ValueError: If a site is unknown, the graph has a cycle or the mode is no mode.
    """
    if mode not in ("forward", "reverse"):
        raise ValueError(f"mode is {mode!r}, expected forward or reverse")
    groups = [list(group) for group in first]
    named = {site for group in groups for site in group}
    _check(parents, {*observed, *named})
    rest = [site for site in parents if site not in named]
    upstream = _children(parents) if mode == "reverse" else parents
    kept = dict.fromkeys(parents)  # a dict, for the order
    given: dict[str, tuple[str, ...]] = {}
    for group in (rest, *reversed(groups)):
        waiting = [site for site in group if site not in observed]
        while waiting:
            graph = _neighbours(parents, kept)
            ready = [site for site in waiting if not set(upstream[site]) & set(waiting)]
            site = min(ready, key=lambda s: _fill(graph, s))
            given[site] = tuple(other for other in kept if other in graph[site])
            waiting.remove(site)
            del kept[site]
    return dict(reversed(given.items()))


def _neighbours(parents: Graph, kept: Collection[str]) -> dict[str, set[str]]:
    """Neighbours among ``kept`` once all other sites are eliminated from the moral graph."""
    ancestral: dict[str, None] = {}
    unseen = list(kept)
    while unseen:
        site = unseen.pop()
        if site not in ancestral:
            ancestral[site] = None
            unseen += parents[site]
    graph: dict[str, set[str]] = {site: set() for site in ancestral}
    for child in ancestral:
        _join(graph, {child, *parents[child]})
    for site in ancestral:
        if site not in kept:
            around = graph.pop(site)
            for other in around:
                graph[other].discard(site)
            _join(graph, around)
    return graph


def _join(graph: dict[str, set[str]], sites: Iterable[str]) -> None:
    for a, b in itertools.combinations(sites, 2):
        graph[a].add(b)
        graph[b].add(a)


def _fill(graph: Mapping[str, set[str]], site: str) -> int:
    return sum(b not in graph[a] for a, b in itertools.combinations(graph[site], 2))


def _children(parents: Graph) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {site: [] for site in parents}
    for site, above in parents.items():
        for parent in above:
            children[parent].append(site)
    return children


def _check(parents: Graph, named: Collection[str]) -> None:
    unknown = {*named, *itertools.chain(*parents.values())} - set(parents)
    if unknown:
        raise ValueError(f"unknown sites {sorted(unknown)}, expected some of {sorted(parents)}")
    left = dict(parents)
    while left:
        roots = [site for site, above in left.items() if not set(above) & set(left)]
        if not roots:
            raise ValueError(
                f"sites {sorted(left)} stand on a cycle, expected a directed acyclic graph"
            )
        for site in roots:
            del left[site]
