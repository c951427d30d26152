"""`inference.methods`: what applies to a pair, why the rest does not, and the docs' table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyro
import pytest
import torch

import ppl_models as zoo
from ppl_models import inference
from ppl_models.catalogue import PAPERS
from ppl_models.data import Table
from ppl_models.inference.diagnostics import methods as tried
from ppl_models.inference.diagnostics.methods import ALGORITHMS, TERMS_OF
from ppl_models.inference.diagnostics.tiny_pairs import KINDS
from ppl_models.inference.objectives.by_name import BOUNDS, TERMS
from ppl_models.pages import methods
from ppl_models.prior_rows import draw_rows
from ppl_models.testing.cases import small_settings

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    return {row["method"]: row for row in methods.rows()}


# What theory says that a method can do, beside what was found by trying.
SUMMED = {"code", "codes", "label", "two labels", "label of the model"}
TAKES = {
    "elbo": {"code", "codes", "global"},
    "enumerated": SUMMED | {"global"},
    "iwelbo": SUMMED | {"global"},
    "tmc": SUMMED | {"global"},
    "renyi": SUMMED | {"global"},
    "self_normalised": SUMMED,
    "characteristic": SUMMED,
    "wake_sleep": set(KINDS) - {"global"},
    "score": set(KINDS),
    "relaxed": {"code", "codes", "label", "two labels", "many bits", "global"},
    "stratified": set(),  # of a guide that is a mixture
    "mutual_supervision": set(),  # of two sites of the data
}


@pytest.mark.parametrize("name", list(BOUNDS))
def test_an_objective_takes_the_sites_that_theory_says(rows, name: str) -> None:
    assert {kind for kind in KINDS if rows[name][kind]} == TAKES[name]


OF_CODES = {"code", "codes", "label", "label of the model", "global"}
OF_TERMS = {
    "balance": {"label", "two labels"},
    "capacity": {"code", "codes", "label", "two labels", "label of the model", "global"},
    "classification": {"label", "two labels"},
    "code_covariance": OF_CODES,
    "distance_correlation": {"codes"},
    "emphasis": {"code", "codes", "label", "two labels", "global"},
    "hat": {"label", "two labels"},
    "hausdorff_support": OF_CODES,
    "hinge": {"label", "two labels"},
    "support_scale": OF_CODES,
    "total_correlation": OF_CODES,
}


@pytest.mark.parametrize("name", list(TERMS_OF))
def test_a_term_takes_the_sites_that_theory_says(rows, name: str) -> None:
    assert {kind for kind in KINDS if rows[name][kind]} == OF_TERMS[name]


def test_every_method_has_its_row(rows) -> None:
    assert list(rows) == [*BOUNDS, *TERMS_OF, *ALGORITHMS]
    others = {"blurred_error", "consistency", "imputed", "left_out", "subsets", "weighted"}
    assert set(TERMS_OF) | others == set(TERMS)
    assert rows["enumerated"]["chunks"] == "yes"
    assert rows["enumerated"]["backends"] == "torch, funsor"
    assert "dreg" in rows["iwelbo"]["estimators"]
    taken = [name for name in (*BOUNDS, *TERMS_OF) if any(rows[name][kind] for kind in KINDS)]
    assert all(rows[name]["compiles"] for name in taken)
    assert len(taken) == len(rows) - 2 - len(ALGORITHMS)
    assert rows["total_correlation"]["estimators"] == "estimator: batch, mws, mss"


def test_the_table_in_the_docs_is_current(rows) -> None:
    text = methods.page(list(rows.values()))
    committed = (ROOT / "docs" / "methods.md").read_text()
    assert committed == text, "run: python -m ppl_models.pages.describe docs/"


def no_others(monkeypatch: pytest.MonkeyPatch, names: Collection[str]) -> None:
    """Try some methods alone."""
    for kind in ("BOUNDS", "TERMS_OF", "ALGORITHMS"):
        known = {n: made for n, made in getattr(tried, kind).items() if n in names}
        monkeypatch.setattr(tried, kind, known)


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_objectives_of_a_card_apply(name: str, monkeypatch) -> None:
    pair = zoo.build(name, **small_settings(zoo.catalogue.get(name)))
    told = {objective.partition("(")[0] for objective in pair.card.objectives}
    no_others(monkeypatch, {"elbo", *told})
    data = draw_rows(pair, 4)
    labels = {label: torch.arange(4) % 2 == 0 for label in pair.card.labels}
    table = Table("rows", dict(data), observed=labels)
    found = {m.name: m for m in inference.methods(pair, table)}
    # Of a game over data that nothing scores, a bound is but the stage of what is scored.
    for objective in told if pair.card.density != "none" else ():
        assert found[objective].applies, found[objective].reason
    if pair.card.labels and set(pair.card.labels) & set(getattr(pair.guide, "given", ())):
        assert "is discrete" in found["elbo"].reason


def test_reasons_are_told_and_nothing_is_left_behind() -> None:
    pair = zoo.build("m2", data_dim=4, classes=3, latent=2, hidden=(3,))
    table = Table("rows", {"x": torch.rand(4, 4)})
    state = torch.get_rng_state()
    found = inference.methods(pair, table)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in pair.parameters())
    assert not list(pyro.get_param_store().keys())
    lines = str(found).splitlines()
    assert len(lines) == len(BOUNDS) + len(TERMS_OF) + len(ALGORITHMS)
    assert lines[0].startswith("elbo") and "no: site 'y' is discrete" in lines[0]
    assert lines[1].split() == ["enumerated", "objective", "yes"]


def test_draws_of_many_sites_are_refused_before_they_are_combined(monkeypatch) -> None:
    """Elements of HFSGM see all six codes and contexts: 8 draws of each would be 8^6 numbers."""
    no_others(monkeypatch, ("elbo", "iwelbo", "tmc"))
    pair = zoo.build("hfsgm", data_dim=4, most=2, layers=3, hidden=3, context=2, latent=2)
    found = {m.name: m for m in inference.methods(pair, Table("rows", dict(draw_rows(pair, 3))))}
    assert found["elbo"].applies and found["iwelbo"].applies
    assert "'z_1' (8 draws) have 262144 combinations" in found["tmc"].reason
    assert "more than combinations=4096" in found["tmc"].reason


def test_an_objective_that_teaches_a_factor_nothing_does_not_apply(monkeypatch) -> None:
    """The tightest bound gives q(y | x) no gradient."""
    untaught = lambda: inference.IWELBO(2, lam=0, distil=0)  # noqa: E731
    monkeypatch.setitem(BOUNDS, "iwelbo", untaught)
    pair = zoo.build("m2", data_dim=4, classes=3, latent=2, hidden=(3,))
    found = {m.name: m for m in inference.methods(pair, Table("rows", {"x": torch.rand(4, 4)}))}
    assert "does not reach 'guide.factors.y" in found["iwelbo"].reason
