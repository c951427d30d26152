"""Objectives by name, as the command line takes them."""

from __future__ import annotations

import pytest

from ppl_models import data
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    Balance,
    BlurredError,
    Capacity,
    Classification,
    CodeCovariance,
    Consistency,
    DistanceCorrelation,
    Emphasis,
    EnumeratedELBO,
    FreeBits,
    Hat,
    Hinge,
    Imputed,
    LeftOut,
    TotalCorrelation,
    WakeSleep,
    Weighted,
)
from ppl_models.inference.objectives.by_name import BOUNDS, parse_objective


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("renyi(alpha=-0.5)", "Renyi(alpha=-0.5)"),
        ("wake_sleep(particles=3, sleep=0.5)", "WakeSleep(particles=3, sleep=0.5)"),
        (
            "self_normalised(logq=jensen, alpha=0.1)",
            "SelfNormalisedELBO(logq='jensen', alpha=0.1)",
        ),
        (
            "score(particles=4, inside=True)",
            "ScoreELBO(particles=4, inside=True)",
        ),
        (
            "relaxed(temperature=0.5, hard=True)",
            "RelaxedELBO(temperature=0.5, hard=True)",
        ),
        (
            "wake_sleep(wake=anneal(1, 0.5, 0.2, 0.8))",
            repr(WakeSleep(wake=Anneal(1, 0.5, 0.2, 0.8))),
        ),
        (
            "enumerated(beta={z: 4, 'w': anneal(0, 1)})",
            repr(EnumeratedELBO(beta={"z": 4, "w": Anneal(0, 1)})),
        ),
    ],
)
def test_a_name_with_options_is_the_objective_it_says(text, written):
    assert repr(parse_objective(text)) == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("score(particles=1)", "particles is 1, expected at least 2"),
        ("renyi(order=2)", "order.*option of renyi|option of renyi.*order"),
        ("wake_slep", "did you mean 'wake_sleep'"),
        ("elbo + hinj(y)", "did you mean 'hinge'"),
        ("elbo + 2 * hinge(y, wait=3)", "option of hinge 'wait': did you mean 'weight'"),
        ("elbo + hinge()", r"'hinge\(\)' lacks site="),
        ("elbo + hinge(y, 3)", "expected option=value, got '3'"),
        ("hinge(y, site=y)", "has site twice"),
        ("elbo(**more)", r"got '\*\*more'"),
        ("elbo() + 5 * penalty(a)", "'penalty' needs a function, which only Python can give"),
        ("stop_gradient(elbo)", "needs networks"),
        ("-elbo", "'-elbo': expected name"),
        ("elbo - hinge(y)", "'elbo - hinge.*a sum of such by"),
        ("elbo * hinge(y)", r"'elbo \* hinge"),
        ("2 * 3", "objective '3'"),
        ("True * elbo", "'True"),
        ("1e999 * elbo", "a number and"),
        ("elbo(free_bits=free_bit(1))", "value 'free_bit': did you mean 'free_bits'"),
        ("elbo(free_bits=free_bits(1, pr=site))", "did you mean 'per'"),
        ("elbo(free_bits=free_bits())", "missing 1 required"),
        ("elbo(beta={**z})", "site: number"),
        ("imputed(2, y)", "objective '2'"),
        ("elbo +", "not of the form"),
        ("elbo\0", "not of the form"),
        ("(" * 500 + "elbo" + ")" * 500, "not of the form"),
        ("+".join(["elbo"] * 200), "more than 100 parts within each other"),
        ("imputed(" * 110 + "elbo" + ", y)" * 110, "more than 100"),
    ],
)
def test_mistakes_are_answered_by_name(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_objective(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("iwelbo(particles=8) + 0.5 * classification(site=y)",
         IWELBO(8) + 0.5 * Classification("y")),
        ("2 * (elbo() + classification(y))", 2 * (ELBO() + Classification("y"))),
        ("2 * ((elbo + 3 * hinge(y, weight=2)) * 0.5)", ELBO() + 3 * Hinge("y", 2)),
        ("elbo * 2 + -1 * hat(y)", 2 * ELBO() + -1 * Hat("y")),
        ("weighted(elbo + hinge(y), balance=y)", Weighted(ELBO() + Hinge("y"), "y")),
        ("imputed(enumerated(kl=analytic), y)", Imputed(EnumeratedELBO(kl="analytic"), "y")),
        ("left_out(bound=elbo, site=y)", LeftOut(ELBO(), "y")),
        ("consistency(elbo, x, (affine(degrees=30), flip(0.1)), shape=(8, 8), weight=0.5)",
         Consistency(ELBO(), "x", (data.Affine(30.0), data.Flip(0.1)), (8, 8), 0.5)),
        ("elbo + distance_correlation(a, b, weight=anneal(0, 8, end=0.5))",
         ELBO() + DistanceCorrelation("a", "b", Anneal(0, 8, end=0.5))),
        ("elbo(kl=analytic) + total_correlation(z, weight=3, estimator=mss)",
         ELBO(kl="analytic") + TotalCorrelation("z", 3, "mss")),
        ("elbo + code_covariance(z, 5, lambda_d=anneal(0, 50), of=aggregate)",
         ELBO() + CodeCovariance("z", 5, Anneal(0, 50), "aggregate")),
        ("elbo + blurred_error(x, shape=(64, 64), radius=15, weight=961)",
         ELBO() + BlurredError("x", (64, 64), 15, 961)),
        ("elbo(beta={z: 0}) + capacity(z, 1000, anneal(0, 25))",
         ELBO(beta={"z": 0}) + Capacity("z", 1000, Anneal(0, 25))),
        ("elbo(free_bits=free_bits(0.5, per=site)) + emphasis(y, weight=10) + balance(y)",
         ELBO(free_bits=FreeBits(0.5, per="site")) + Emphasis("y", 10) + Balance("y")),
    ],
)  # fmt: skip
def test_sums_and_weights(text, objective):
    parsed = parse_objective(text)
    assert parsed == objective or repr(parsed) == repr(objective)
    # What is printed is read again, also in lower case.
    for printed in (repr(parsed), repr(parsed).lower()):
        assert parse_objective(printed) == parsed


def test_nothing_is_evaluated(tmp_path):
    for code in ("__import__('pathlib').Path({!r}).touch()", "elbo(beta=open({!r}, 'w'))"):
        with pytest.raises(ValueError, match="expected"):
            parse_objective(code.format(str(tmp_path / "made")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BOUNDS)
def test_every_formula_names_what_it_is_made_of(name):
    formula = parse_objective(name).formula
    seen = "p(s" if name == "mutual_supervision" else "p(x"
    assert "log" in formula and seen in formula and "q(" in formula
