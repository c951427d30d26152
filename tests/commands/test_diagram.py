"""Plate diagrams: arrows of the story and of the guide."""

from __future__ import annotations

import re

import ppl_models as zoo
from ppl_models.pages.diagram import diagrams


def arrows(chart: str) -> set[tuple[str, str]]:
    names = dict(re.findall(r'(n\d+)\(\("(\w+)"\)\)', chart))
    return {(names[a], names[b]) for a, b in re.findall(r"(n\d+) --> (n\d+)", chart)}


def kinds(chart: str) -> dict[str, str]:
    return dict(re.findall(r'\(\("(\w+)"\)\):::(\w+)', chart))


def test_the_stack():
    story, guide = diagrams(zoo.build("m1m2", data_dim=6, classes=3, code=4, latent=2))
    assert arrows(story) == {("y", "z1"), ("z2", "z1"), ("z1", "x")}
    assert arrows(guide) == {("x", "z1"), ("z1", "y"), ("z1", "z2"), ("y", "z2")}
    assert kinds(story) == kinds(guide) == {
        "y": "label", "z2": "latent", "z1": "latent", "x": "data"
    }  # fmt: skip


def test_the_order_of_the_guide_shows():
    settings = {"data_dim": 6, "classes": 3, "latent": 2, "hidden": (4,)}
    last = zoo.build("partially_specified", guide="style_first", **settings)
    story, guide = diagrams(last)
    assert arrows(story) == {("y", "x"), ("z", "x")}
    assert arrows(guide) == {("x", "z"), ("x", "y"), ("z", "y")}


def test_sites_of_no_row_stand_outside_the_plate():
    (story, _) = diagrams(zoo.build("vae", data_dim=6, latent=2, hidden=(4,)))
    plate = story[story.index("subgraph") : story.index("  end")]
    assert set(kinds(plate)) == {"x", "z"}
