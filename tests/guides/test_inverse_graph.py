"""Faithful inversion: every independence holds, every edge is needed, the paper's examples."""

from __future__ import annotations

import itertools
import random

import pytest

from ppl_models.guides import faithful_inverse

MODES = ["forward", "reverse"]


def connected(parents, a, b, given):
    """Whether a path between a and b is active given some sites (Bayes ball)."""
    children = {n: [c for c in parents if n in parents[c]] for n in parents}
    above, unseen = set(), list(given)
    while unseen:
        site = unseen.pop()
        if site not in above:
            above.add(site)
            unseen += parents[site]
    seen, balls = set(), [(a, "up")]
    while balls:
        site, way = balls.pop()
        if (site, way) in seen:
            continue
        seen.add((site, way))
        if site == b:
            return True
        if site not in given:
            balls += [(c, "down") for c in children[site]]
            if way == "up":
                balls += [(p, "up") for p in parents[site]]
        if way == "down" and site in above:
            balls += [(p, "up") for p in parents[site]]
    return False


def algorithm_1(parents, observed, mode):
    """NaMI as printed, with the marked and unmarked vertices of one graph J."""
    J = {n: set() for n in parents}
    for child in parents:
        for a, b in itertools.combinations([child, *parents[child]], 2):
            J[a].add(b), J[b].add(a)
    upstream = parents
    if mode == "reverse":
        upstream = {n: [c for c in parents if n in parents[c]] for n in parents}
    unmarked, H = set(parents), {}
    while unmarked - set(observed):
        latent = unmarked - set(observed)
        S = [n for n in parents if n in latent and not set(upstream[n]) & latent]

        def fill(v):
            return sum(b not in J[a] for a, b in itertools.combinations(J[v] & unmarked, 2))

        v = min(S, key=fill)
        H[v] = J[v] & unmarked
        for a, b in itertools.combinations(H[v], 2):
            J[a].add(b), J[b].add(a)
        unmarked.remove(v)
    return H


def random_graphs(count, every_cause_seen):
    rng = random.Random(0)
    while count:
        names = "abcdef"[: rng.choice((4, 5, 6))]
        density = rng.uniform(0.2, 0.8)
        parents = {
            n: [p for p in names[:place] if rng.random() < density]
            for place, n in enumerate(names)
        }
        observed = {n for n in names if rng.random() < 0.4}
        above, unseen = set(), list(observed)
        while unseen:
            site = unseen.pop()
            above.add(site)
            unseen += parents[site]
        if observed and (not every_cause_seen or above == set(names)):
            count -= 1
            yield parents, observed


def as_graph(inverse, observed):
    """The inverse as a graph over all sites; it says nothing about the observed ones."""
    seen = sorted(observed)
    return {**{n: seen[:place] for place, n in enumerate(seen)}, **inverse}


@pytest.mark.parametrize("mode", MODES)
def test_what_the_inverse_asserts_holds_in_the_model(mode):
    asserted = 0
    for parents, observed in random_graphs(150, every_cause_seen=False):
        inverse = as_graph(faithful_inverse(parents, observed, mode), observed)
        for a, b in itertools.combinations(parents, 2):
            others = [n for n in parents if n not in (a, b)]
            for size in range(len(others) + 1):
                for given in itertools.combinations(others, size):
                    if not connected(inverse, a, b, given):
                        asserted += 1
                        assert not connected(parents, a, b, given), (parents, observed, a, b)
    assert asserted > 1000


@pytest.mark.parametrize("mode", MODES)
def test_no_edge_of_the_inverse_can_be_left_out(mode):
    edges = 0
    for parents, observed in random_graphs(600, every_cause_seen=False):
        for site, given in faithful_inverse(parents, observed, mode).items():
            for other in given:
                edges += 1
                # Without the edge the inverse would assert that the two are independent.
                rest = [n for n in given if n != other]
                assert connected(parents, site, other, rest), (parents, observed, site, other)
    assert edges > 1000


@pytest.mark.parametrize("mode", MODES)
def test_inverse_is_the_papers_where_every_latent_has_observed_effects(mode):
    for parents, observed in random_graphs(400, every_cause_seen=True):
        mine = faithful_inverse(parents, observed, mode)
        theirs = algorithm_1(parents, observed, mode)
        assert {n: set(given) for n, given in mine.items()} == theirs
        assert list(mine) == list(theirs)[::-1]


V = {"a": [], "b": [], "x": ["a", "b"]}
CHAIN = {"a": [], "b": ["a"], "x": ["b"]}
TREE = {"a": [], "b": ["a"], "c": ["a"], "d": ["b"], "e": ["c"]}  # the paper's first example
BARREN = {"a": [], "b": [], "c": ["a", "b"], "x": ["a"], "y": ["b"]}


@pytest.mark.parametrize(
    ("parents", "observed", "mode", "expected"),
    [
        (V, "x", "forward", {"b": "x", "a": "bx"}),
        (CHAIN, "x", "forward", {"b": "x", "a": "b"}),
        (CHAIN, "x", "reverse", {"a": "x", "b": "ax"}),
        (CHAIN, "ax", "forward", {"b": "ax"}),
        (TREE, "de", "forward", {"c": "de", "b": "cd", "a": "bc"}),
        (TREE, "de", "reverse", {"a": "de", "c": "ae", "b": "ad"}),
        # c has no observed effect: eliminated first, it leaves its causes independent.
        (BARREN, "xy", "reverse", {"b": "y", "a": "x", "c": "ab"}),
    ],
    ids=["v", "chain", "chain back", "observed root", "tree", "tree back", "barren"],
)
def test_small_graphs(parents, observed, mode, expected):
    inverse = faithful_inverse(parents, observed, mode)
    assert {n: "".join(sorted(given)) for n, given in inverse.items()} == expected
    assert list(inverse) == list(expected)


def test_groups_are_sampled_first_and_faithful_with_and_without_them():
    parents = {"z": [], "d": ["z"], "y": ["z"], "x": ["z", "d"]}
    inverse = faithful_inverse(parents, "x", first=["y", "d"])
    assert list(inverse) == ["y", "d", "z"]
    assert {n: set(g) for n, g in inverse.items()} == {"y": {"x"}, "d": {"x", "y"}, "z": {*"xyd"}}
    observed = faithful_inverse(parents, "xy", first=["d"])
    assert observed == {n: g for n, g in inverse.items() if n != "y"}


def test_graph_errors():
    with pytest.raises(ValueError, match=r"unknown sites \['q'\]"):
        faithful_inverse({"a": ["q"]}, "a")
    with pytest.raises(ValueError, match=r"\['a', 'b'\] stand on a cycle"):
        faithful_inverse({"a": ["b"], "b": ["a"]}, "a")
    with pytest.raises(ValueError, match="mode is 'up'"):
        faithful_inverse(V, "x", "up")
