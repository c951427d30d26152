"""Labels that collapsed, died, were swapped or are too sure: made-up probabilities and counts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ppl_models.inference.diagnostics.label_checks import label_checks
from ppl_models.inference.posterior.confusion import Confusion

NAMES = np.array(["ant", "bee", "cow"])


def rows(truth, told, sure=0.9, known=True, trained=None, prior=None, chain=False):
    """Groups of rows whose most probable class is ``told``, with that probability.

    Args:
        truth: Own classes ``(N,)``.
        told: Most probable classes.
        sure: Their probability.
        known: Whether the exported rows have their labels.
        trained: Counts and mean largest probability of the labelled training rows.
        prior: Draws of p(y).
        chain: With a dimension for two fits, of which the second is perfect.
    """
    truth, told = np.asarray(truth), np.asarray(told)
    probs = np.full((len(told), 3), (1 - sure) / 2)
    probs[np.arange(len(told)), told] = sure
    dims = ("datum", "y_class")
    if chain:
        dims, probs = ("chain", *dims), np.stack([probs, np.eye(3)[truth]])
    groups = {"variational": xr.Dataset({"y_probs": (dims, probs)}, {"y_class": NAMES})}
    if known:
        groups["constant_data"] = xr.Dataset({"y_true": (("datum",), truth)})
    if trained is not None:
        counts, mean = trained
        by = ("chain", "y_true_class", "y_class")
        groups["training"] = xr.Dataset(
            {"y_confusion": (by, np.asarray(counts)[None]), "y_sure": (("chain",), [mean])}
        )
    if prior is not None:
        groups["prior"] = xr.Dataset({"y": (("chain", "draw"), np.asarray(prior)[None])})
    return groups


EVEN = np.repeat([0, 1, 2], 40)
UNIFORM = np.tile([0, 1, 2], 200)


def failed(groups):
    return [check.name for check in label_checks(groups) if not check.ok]


def one(groups, name):
    return next(c for c in label_checks(groups) if c.name == name)


def test_labels_that_are_told_right():
    found = label_checks(rows(EVEN, EVEN, sure=0.97, prior=UNIFORM))
    assert all(check.ok for check in found)
    assert [check.name for check in found] == [
        "label information", "class shares", "classifier", "calibration",
    ]  # fmt: skip
    assert {check.variable for check in found} == {"y"}


def test_information_is_that_of_its_definition():
    """H of the mean minus the mean of H: here log 3 - H(0.8, 0.1, 0.1)."""
    row = -(0.8 * np.log(0.8) + 0.2 * np.log(0.1))
    found = one(rows(EVEN, EVEN, sure=0.8), "label information")
    assert found.figure == pytest.approx(np.log(3) - row)
    assert found.limit == pytest.approx(0.05 * np.log(3))
    assert found.fact == f"y tells 120 rows apart by {np.log(3) - row:.3g} nats (at least 0.055)"


@pytest.mark.parametrize("reference", ["truth", "trained", "prior"])
def test_every_row_in_one_class(reference):
    """Whatever there is to hold it against."""
    groups = rows(
        EVEN, np.zeros(120, int), sure=0.99, known=reference == "truth",
        trained=(np.diag([20, 20, 20]), 0.99) if reference == "trained" else None,
        prior=UNIFORM if reference == "prior" else None,
    )  # fmt: skip
    assert failed(groups)[:3] == ["label information", "class shares", "dead class"]
    shares, dead = one(groups, "class shares"), one(groups, "dead class")
    assert shares.figure == pytest.approx(0.99 - 1 / 3)
    source = {"truth": "their known labels", "trained": "the labelled training rows",
              "prior": "p(y)"}[reference]  # fmt: skip
    assert f"from those of {source} in total variation (at most 0.5)" in shares.fact
    assert "y gives 'bee', 'cow' hardly any row" in dead.fact
    if reference == "truth":
        assert failed(groups)[3:] == ["classifier", "calibration"]
        assert one(groups, "classifier").fact == (
            "y is wrong in 66.7% of 120 exported rows of known label (at most 33.3%: half the "
            "error of always naming 'ant', or what its own probabilities say)"
        )


def test_a_classifier_that_is_the_same_for_all_rows():
    groups = rows(EVEN, np.zeros(120, int), sure=1 / 3, known=False, prior=UNIFORM)
    assert failed(groups) == ["label information"]


def test_one_dead_class():
    told = np.where(EVEN == 2, 1, EVEN)
    found = one(rows(EVEN, told, sure=0.99), "dead class")
    assert found.fact == (
        "y gives 'cow' hardly any row: 0.6 of 120 to 'cow' (at least 4, a tenth of the share in "
        "their known labels)"
    )
    assert failed(rows(EVEN, told, sure=0.99)) == ["dead class", "calibration"]


def test_mistakes_in_classes_of_a_row_or_two_are_no_swap():
    """Three rows of which two change places, beside 60 that are right."""
    truth = np.r_[np.zeros(60, int), [1, 1, 2, 2, 1, 2]]
    told = np.r_[np.zeros(60, int), [2, 2, 1, 1, 2, 1]]
    assert "swapped classes" not in failed(rows(truth, told))
    assert "swapped classes" in failed(rows(np.tile(truth, 2), np.tile(told, 2)))


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_rows_of_one_known_class_are_no_collapse(wrong):
    """Someone who exports ants only gets no complaint about bees."""
    told = np.r_[np.ones(wrong, int), np.zeros(60 - wrong, int)]
    assert failed(rows(np.zeros(60, int), told, sure=0.97, prior=UNIFORM)) == []


def test_the_nearer_reference_counts():
    """Balanced labelling of skewed rows is no fault, nor are skewed rows under a uniform prior."""
    skewed = np.repeat([0, 1, 2], [84, 24, 12])
    balanced, uneven = np.diag([20, 20, 20]), np.diag([70, 20, 10])
    for trained in (balanced, uneven):
        groups = rows(skewed, skewed, 0.97, known=False, trained=(trained, 0.97), prior=UNIFORM)
        assert failed(groups) == []


def test_swapped_classes_are_named():
    told = np.array([1, 0, 2])[EVEN]
    groups = rows(EVEN, told, sure=0.97)
    found = one(groups, "swapped classes")
    assert found.figure == pytest.approx(2 / 3)
    assert found.fact == (
        "y exchanges the classes 'ant', 'bee': with their names put right 66.7% more of 120 "
        "exported rows of known label are right (at most 5%)"
    )
    assert "swapped classes" not in failed(rows(EVEN, np.zeros(120, int)))


@pytest.mark.parametrize(
    ("sure", "wrong", "ok", "advice"),
    [
        (0.9, 6, True, ""),
        (0.99, 30, True, ""),  # 24 points too sure, of 20 and 8 for the noise of 120 rows
        (0.99, 48, False, "too sure"),
        (0.4, 6, False, "not sure enough"),
    ],
)
def test_calibration(sure, wrong, ok, advice):
    told = EVEN.copy()
    told[np.arange(wrong) * 2] += 1
    told %= 3
    found = one(rows(EVEN, told, sure), "calibration")
    right = 1 - wrong / 120
    assert found.ok == ok and found.figure == pytest.approx(abs(sure - right))
    assert found.limit == pytest.approx(0.2 + 2 * np.sqrt(right * (1 - right) / 120))
    assert ok or advice in found.sentence


@pytest.mark.parametrize(
    ("wrong", "sure", "ok"),
    [
        (36, 0.99, True),  # 30 %, below half of 66.7 %
        (60, 0.5, True),  # half wrong, and q says so
        (60, 0.6, True),  # 10 points more than it says, of 3 x 4.6 for the noise
        (60, 0.7, False),
        (80, 0.34, False),  # no better than one name for all
    ],
)
def test_a_bad_classifier_must_know_that_it_is_one(wrong, sure, ok):
    told = EVEN.copy()
    told[np.arange(120) < wrong] += 1
    found = one(rows(EVEN, told % 3, sure), "classifier")
    error = wrong / 120
    noise = np.sqrt(error * (1 - error) / 120)
    assert found.ok == ok and found.figure == pytest.approx(error)
    assert found.limit == pytest.approx(min(2 / 3, max(1 / 3, 1 - sure + 3 * noise)))


def test_labelled_training_rows_are_judged_too():
    """README's fault: every labelled row in one class, and the exported rows have no labels."""
    groups = rows(EVEN, EVEN, known=False, trained=([[0, 20, 0], [0, 19, 0], [0, 21, 0]], 0.99))
    found = one(groups, "classifier")
    assert found.sentence == (
        "y is wrong in 68.3% of 60 labelled training rows (at most 32.5%: half the error of "
        "always naming 'cow', or what its own probabilities say). To try: add "
        "Classification('y') to the objective (the bound alone teaches q(y | x) too little), "
        "train longer, or try another seed."
    )
    for part in ("classification(y)", "hinge(y)", "classification"):
        curve = groups["training"].assign({part: (("chain", "step"), np.ones((1, 3)))})
        taught = one({**groups, "training": curve}, "classifier")
        assert f"give {part} more weight, train longer, or try another seed" in taught.sentence
    other = groups["training"].assign({"hinge(z)": (("chain", "step"), np.ones((1, 3)))})
    assert one({**groups, "training": other}, "classifier") == found


def test_each_fit_is_judged_apart():
    groups = rows(EVEN, np.zeros(120, int), sure=0.99, chain=True)
    bad = [check for check in label_checks(groups) if not check.ok]
    assert bad and all("y of chain 0" in check.fact for check in bad)


def test_too_few_rows_and_hidden_labels_say_nothing():
    assert label_checks(rows(EVEN[:19], EVEN[:19])) == []
    hidden = np.full(120, -1)
    assert {c.name for c in label_checks(rows(hidden, EVEN, prior=UNIFORM))} == {
        "label information", "class shares",
    }  # fmt: skip


def test_labels_that_are_only_drawn():
    """Of a label that the guide leaves to the model there are draws: 9 of 10 are right."""
    drawn = np.broadcast_to(EVEN, (1, 10, 120)).copy()
    drawn[:, 3] = (drawn[:, 3] + 1) % 3
    groups = rows(EVEN, EVEN, trained=(np.diag([20, 20, 20]), 0.9))
    groups["variational"] = xr.Dataset()
    groups["posterior"] = xr.Dataset({"y": (("chain", "draw", "datum"), drawn)})
    assert failed(groups) == []
    calibration = [c for c in label_checks(groups) if c.name == "calibration"][1]
    assert calibration.fact.startswith(
        "the most probable y has a probability of 90.0% on average and is right in 100.0% of 120"
    )
    # Draws of the first rows only, and labels of all.
    first = {**groups, "posterior": groups["posterior"].isel(datum=slice(50))}
    told = [c for c in label_checks(first) if c.name == "calibration"][1]
    assert told.fact.endswith("is right in 100.0% of 50 exported rows of known label (at most 20 "
                              "points apart)")  # fmt: skip
    del groups["training"]
    assert label_checks(groups) == []  # nobody says how many classes there are


def test_probabilities_of_chains_are_of_one_posterior():
    probs = np.eye(3)[EVEN] * np.ones((2, 5, 1, 1))
    dims = ("chain", "draw", "datum", "y_class")
    groups = {"posterior": xr.Dataset({"y_probs": (dims, probs)}, {"y_class": NAMES})}
    groups["constant_data"] = xr.Dataset({"y_true": (("datum",), EVEN)})
    assert failed(groups) == []
    assert len(label_checks(groups)) == 4


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_counts_come_back_from_plain_values(classes):
    g = np.random.default_rng(classes)
    truth, probs = g.integers(0, classes, 50), g.dirichlet(np.ones(classes), 50)
    told = Confusion.of(truth, probs)
    assert told.rows == 50
    assert told.error == pytest.approx((probs.argmax(-1) != truth).mean())
    assert told.sure == pytest.approx(probs.max(-1).mean())
    again = Confusion.read(told.plain())
    np.testing.assert_array_equal(again.counts, told.counts)
    assert again.sure == told.sure


@pytest.mark.parametrize(
    "told",
    [
        None, [], {"classes": 3}, {"classes": 10**9, "cells": [], "sure": 0.5},
        {"classes": True, "cells": [[0, 0, 1]], "sure": 0.5},
        {"classes": 2, "cells": [[0, 2, 1]], "sure": 0.5},
        {"classes": 2, "cells": [[0, -1, 1]], "sure": 0.5},
        {"classes": 2, "cells": [[0, 1]], "sure": 0.5},
        {"classes": 2, "cells": [[0, 1, 10**9]], "sure": 0.5},
        {"classes": 2, "cells": [], "sure": 0.5},
        {"classes": 2, "cells": [[0, 1, 1]], "sure": float("nan")},
        {"classes": 2, "cells": [[0, 1, 1]] * 10**4, "sure": 0.5},
    ],
)  # fmt: skip
def test_counts_of_another_kind_are_refused(told):
    with pytest.raises(ValueError, match="labelled rows"):
        Confusion.read(told)
