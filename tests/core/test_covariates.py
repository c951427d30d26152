"""Covariates condition a story, are in every batch, and are never scored."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.covariates import DONORS, Dosed, dosed, evidence, treated
from worlds.processes import together

from ppl_models import Batch, inference
from ppl_models.covariates import emptied, empty
from ppl_models.data import Table
from ppl_models.inference.diagnostics.debug import debug
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.known_rows import at_covariates
from ppl_models.inference.posterior.support import check_data
from ppl_models.inference.posterior.target import rows_of
from ppl_models.pages.diagram import diagrams
from ppl_models.testing import PairContract

FEW = range(4)
QUICK = {"epochs": 2, "batch_size": 8, "progress": False, "device": "cpu"}


@pytest.fixture
def pair() -> Dosed:
    return dosed()


@pytest.fixture
def known(pair):
    pair.schema = pair.schema_with(treated(pair))
    return pair


# ---- the card -----------------------------------------------------------------------------


def test_a_site_is_a_covariate_or_scored():
    with pytest.raises(
        ValueError, match=r"card 'dosed': 'x' is a covariate and a site that is sc"
    ):
        replace(Dosed.card, covariates={"x": "data"})
    with pytest.raises(ValueError, match=r"card 'dosed': unknown density 'some'"):
        replace(Dosed.card, density="some")
    with pytest.raises(
        ValueError, match=r"card 'dosed': unknown cause 'dose': expected one of x, y"
    ):
        replace(Dosed.card, causes=("y", "dose"))
    assert Dosed.card.given == ("x", "donor", "dose")


class TestDosed(PairContract):
    """Labels, codes and covariates together keep the contract's numbers."""

    pair = Dosed

    test_file_is_short_and_tells_only_the_story = None
    test_docstring_reads_story_guide_paper_shapes = None
    test_card_is_complete = None
    test_config_is_frozen_and_documented = None
    test_prior_draws_have_the_datas_shape_and_support = None


# ---- empty batches ------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_an_empty_batch_has_covariates(known, rows):
    one = empty(known, rows, {"donor": "bob", "dose": 0.5})
    assert set(one) == {"donor", "dose"} and one.count == one.size == rows
    assert one["donor"].tolist() == [1] * rows and one["dose"].shape == (rows, 1)
    assert one["dose"].dtype == torch.float64 and one["donor"].dtype == torch.int64
    # Of rows, covariates stay together.
    table = rows_of(treated(known), known)
    torch.manual_seed(0)
    some = empty(known, rows, table)
    pairs = list(zip(table["donor"].tolist(), table["dose"].flatten().tolist(), strict=True))
    found = zip(some["donor"].tolist(), some["dose"].flatten().tolist(), strict=True)
    assert all(each in pairs for each in found)
    same = empty(known, table.count, table)
    assert torch.equal(same["dose"], table["dose"])
    left = emptied(known, table)
    assert set(left) == {"donor", "dose"} and torch.equal(left.rows, table.rows)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"donor": 1}, "dosed has the covariate 'dose' (of a drug (1)) and no value for it; give"),
        ({"donor": "zoe", "dose": 1}, "covariate 'donor': unknown class 'zoe'"),
        ({"donor": 1.5, "dose": 1}, "covariate 'donor' is 1.5, expected a class in 0..2"),
        ({"donor": [0, 1], "dose": [[1.0]] * 3}, "covariates have the numbers of rows"),
        ({"donor": 1, "dose": [[1.0, 2.0]]}, "covariate 'dose' has shape (1, 2), expected (1,)"),
    ],
)
def test_what_is_no_covariate_is_one_line(known, values, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        empty(known, 4, values)
    assert "\n" not in str(caught.value)


def test_a_pair_that_says_none_is_told_to():
    class Silent(Dosed):
        some_covariates = Dosed.__mro__[2].some_covariates

    with pytest.raises(ValueError, match="Silent has the covariate 'donor' and says no value"):
        Silent(Dosed.Config()).some_covariates(3)


# ---- exact numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(("latent", "classes"), [(1, 2), (2, 4)])
def test_the_bound_is_below_the_evidence_given_covariates(dtype, scale, latent, classes):
    pair = dosed(dtype, latent=latent, classes=classes)
    for parameter in pair.guide.parameters():
        parameter.detach().zero_()  # q(z) is the prior, whose weights are bounded
    batch = rows_of(treated(pair), pair).without("y")
    seen = Batch(dict(batch), batch.rows, size=scale * batch.count)
    exact = evidence(pair, batch)
    torch.manual_seed(0)
    bound = (
        -inference.IWELBO(4000, lam=0.0, distil=0.0)
        .per_datum(pair.model, pair.guide, seen)
        .detach()
    )
    assert_close(bound, exact, rtol=0.03, atol=0.1)
    elsewhere = batch.replace({**batch, "dose": batch["dose"] + 1})
    assert not torch.allclose(evidence(pair, elsewhere), exact, atol=0.5)


def test_importance_annealing_and_nuts_know_covariates(known):
    table = treated(known)
    exact = evidence(known, rows_of(table, known))[:4].numpy()
    for found in (
        inference.importance(known, table, FEW, draws=8000).diagnostics["log_evidence"].values,
        inference.log_evidence(known, table, FEW, draws=400, temperatures=60)["log_evidence"],
    ):
        np.testing.assert_allclose(np.asarray(found), exact, atol=0.15)
    idata = inference.nuts(known, table, [2], draws=300, warmup=200, chains=1, progress=False)
    # p(y | x, donor, dose), summed by hand.
    batch = rows_of(table, known)
    joint, total = known.log_evidence((batch["x"] - known.moved(batch))[2:3])
    probs = (joint - total).exp().detach().numpy()[0]
    drawn = idata.posterior["y_probs"].mean(("chain", "draw")).values[0]
    np.testing.assert_allclose(drawn, probs, atol=0.08)
    assert list(idata.constant_data["donor_class"].values) == list(DONORS)
    assert set(idata.observed_data.data_vars) == {"x"}


def test_prior_draws_take_the_covariates_of_rows(known):
    table = treated(known)
    idata = known_posterior(known, table, prior_draws=4000)
    donor = idata.prior["donor"].values[0]
    x = idata.prior_predictive["x"].values[0]
    weights = known.prior_logits.detach().softmax(0)
    for place in range(3):
        dose = idata.prior["dose"].values[0, donor == place].mean()
        mean = weights @ known.means.detach() + known.donors[place].detach()
        mean = (mean + dose * known.slope.detach()).numpy()
        np.testing.assert_allclose(x[donor == place].mean(0), mean, atol=0.2)


def known_posterior(pair, table, **options):
    from ppl_models.inference.posterior.export import posterior

    return posterior(pair, table, draws=5, **options)


def test_predictions_at_other_covariates_move_by_what_they_do(known):
    """x is linear in the dose: a dose of 5 more moves every prediction by 5 slopes."""
    table = treated(known)
    own = known_posterior(known, table)
    more = known_posterior(known, table, covariates={"dose": table.sites["dose"] + 5})
    shift = more.posterior_predictive["x"].values - own.posterior_predictive["x"].values
    wanted = np.broadcast_to(5 * known.slope.detach().numpy(), shift.shape)
    np.testing.assert_allclose(shift, wanted, atol=1e-4)
    for group in ("posterior", "sample_stats", "log_likelihood", "constant_data"):
        assert own[group].equals(more[group]), group
    eve = known_posterior(known, table, covariates={"donor": "eve"})
    moved = at_covariates(known, table, {"donor": "eve"})
    assert moved.sites["donor"].tolist() == [2] * len(table)
    donors = known.donors.detach()
    wanted = (donors[2] - donors[table.sites["donor"]]).numpy()
    shift = eve.posterior_predictive["x"].values - own.posterior_predictive["x"].values
    np.testing.assert_allclose(shift, np.broadcast_to(wanted, shift.shape), atol=1e-4)


@pytest.mark.parametrize("value", ["bob", 1, torch.tensor(1)])
def test_intervening_on_a_covariate(known, value):
    """The code stays, and the data are those at the other value."""
    batch = rows_of(treated(known), known).without("y")
    found = known.intervene(batch, codes="mean", donor=value)
    as_it_was = known.intervene(batch, codes="mean", dose=batch["dose"])
    assert_close(found["z"], as_it_was["z"])
    wanted = known.donors[1] - known.donors[batch["donor"]]
    assert_close(found["x"] - as_it_was["x"], wanted.detach())
    with pytest.raises(ValueError, match=r"covariate 'donor' is 3, expected a class in 0\.\.2"):
        known.intervene(batch, donor=3)
    with pytest.raises(ValueError, match="the batch lacks the covariate 'dose' of dosed"):
        known.intervene(batch.without("dose"), y=0)


def test_transfer_keeps_the_targets_covariates(known):
    batch = rows_of(treated(known), known).without("y")
    flipped = Batch({n: v.flip(0) for n, v in batch.items()}, batch.rows)
    found = known.transfer(flipped, batch, ["y", "z"], codes="mean")
    source = known.intervene(flipped, codes="mean", dose=flipped["dose"])
    assert_close(found["z"], source["z"])
    there = known.moved(batch) - known.moved(flipped)
    assert_close(found["x"], (source["x"] + there).detach())


# ---- everything that takes a pair and a table -----------------------------------------------

ASKED = {
    "posterior": lambda p, t: known_posterior(p, t),
    "nuts": lambda p, t: inference.nuts(p, t, [0], draws=2, warmup=2, progress=False),
    "map": lambda p, t: inference.map(p, t, FEW, iterations=5),
    "sir": lambda p, t: inference.sir(p, t, FEW, draws=2, proposals=30),
    "log_evidence": lambda p, t: inference.log_evidence(p, t, FEW, method="iw", draws=30),
    "held_out": lambda p, t: inference.held_out(p, t, FEW, method="iw", draws=30),
    "refine": lambda p, t: inference.refine(p, t, FEW, draws=30, steps=2),
    "active_units": lambda p, t: inference.active_units(p, t),
    "aggregate_posterior": lambda p, t: inference.aggregate_posterior(p, t),
    "label_probabilities": lambda p, t: inference.label_probabilities(p, t),
    "label_calibration": lambda p, t: inference.label_calibration(p, t, simulations=20),
    "loss_per_row": lambda p, t: inference.loss_per_row(p, t, inference.EnumeratedELBO()),
    "gibbs_predict": lambda p, t: inference.gibbs_predict(p, t, weights=2, steps=2),
    "amortisation_gap": lambda p, t: inference.amortisation_gap(
        p, t, FEW, draws=30, steps=2, temperatures=3
    ),
    "debug": lambda p, t: debug(p, t),
    "fit": lambda p, t: inference.fit(p, t, **QUICK),
    "check_data": check_data,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ASKED)
def test_everything_takes_covariates_in_any_order_of_classes(known, what):
    """With the classes of a covariate in another order, all comes out the same."""
    table = treated(known)
    other = treated(known)
    turned = Table(
        "cells",
        {**other.sites, "donor": 2 - other.sites["donor"]},
        classes={**other.classes, "donor": DONORS[::-1]},
    )
    pairs = []
    for _ in range(2):
        pairs.append(dosed())
        pairs[-1].schema = known.schema
    found, same = (ASKED[what](p, t) for p, t in zip(pairs, (table, turned), strict=True))
    for name, value in pairs[0].state_dict().items():  # which a fit moves
        assert torch.equal(value, pairs[1].state_dict()[name])
    if what == "debug":
        assert found.ok and str(found) == str(same)
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, same)
    if hasattr(found, "groups"):
        assert found.constant_data.equals(same.constant_data)
        assert found.groups() == same.groups()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", list(ASKED))
@pytest.mark.parametrize("kind", ["missing", "hidden"])
def test_a_missing_covariate_is_one_line_before_work(known, what, kind):
    table = treated(known)
    if kind == "missing":
        table, words = table.without("dose"), "cells lacks the covariate 'dose' of dosed (of a"
    else:
        table = table.hide({"donor": torch.arange(len(table)) != 5})
        words = "covariate 'donor' of cells is hidden in row 5, expected a value in every row"
    before = {name: value.clone() for name, value in known.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        ASKED[what](known, table)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in known.state_dict().items())


@pytest.mark.parametrize(
    ("site", "values", "words"),
    [
        (
            "dose",
            lambda t: t.sites["donor"],
            "'dose' of cells holds classes, expected numbers: gi",
        ),
        ("donor", lambda t: t.sites["dose"], "'donor' of cells holds numbers, expected classes: "),
        ("dose", lambda t: t.sites["x"], "'dose' of cells has rows of shape (3,), expected (1,)"),
    ],
)
def test_a_covariate_of_another_kind_is_one_line(pair, site, values, words):
    """Whole numbers are read as classes, whose codes would be taken for doses."""
    table = treated(pair)
    classes = {name: c for name, c in table.classes.items() if name != site}
    other = Table("cells", {**table.sites, site: values(table)}, classes=classes)
    with pytest.raises(ValueError, match=re.escape(f"covariate {words}")):
        inference.fit(pair, other, **QUICK)


def test_calibration_draws_rows_at_covariates(known):
    with pytest.raises(ValueError, match=r"dosed has the covariate 'donor' .* no value for it"):
        inference.sbc(known, 20)
    found = inference.sbc(known, 20, draws=9, covariates={"donor": "eve", "dose": 0.2})
    rows = rows_of(treated(known), known)
    again = inference.sbc(known, 20, draws=9, covariates=emptied(known, rows))
    assert found.sizes == again.sizes


# ---- training -----------------------------------------------------------------------------


def test_stages_that_see_some_sites_see_covariates(known):
    """`Stage.sites` names what of the data a stage sees; covariates always pass."""
    seen = []

    class Staged(Dosed):
        def stages(self, bound=None):
            (stage,) = super().stages(bound)
            note = lambda batch: seen.append(set(batch))  # noqa: E731
            return (replace(stage, objective=bound or inference.EnumeratedELBO(), sites=("x",),
                            start=note),)  # fmt: skip

    inference.fit(Staged(Dosed.Config()), treated(known), **QUICK)
    assert seen == [{"x", "donor", "dose"}]


@pytest.mark.filterwarnings("ignore")
def test_two_processes_are_one(tmp_path):
    table = treated(dosed(torch.float32), 64)

    def work(rank):
        pair = dosed(torch.float32)
        run = inference.fit(pair, table, epochs=3, batch_size=16, progress=False, device="cpu")
        return run.history["loss"]

    one = together(1, tmp_path / "one", work)
    two = together(2, tmp_path / "two", work)
    assert not one[0].error and not two[0].error, (one, two)
    np.testing.assert_allclose(one[0].value, two[0].value, rtol=1e-4)


def test_diagrams_show_covariates_inside_the_plate(pair):
    for chart in diagrams(pair):
        donor = re.search(r'(n\d+)\(\("donor"\)\):::covariate', chart)[1]
        assert f"{donor} --> " in chart and "classDef covariate" in chart


@pytest.mark.parametrize(
    ("dose", "shape"),
    [(0.5, (4, 1)), ([0.5], (4, 1)), ([0.1, 0.2, 0.3, 0.4], (4, 1)), ([[0.1], [0.2]], (4, 1))],
)
@pytest.mark.parametrize("known", [False, True])
def test_a_number_a_row_is_one_with_or_without_data(dose, shape, known):
    """What a pair says of its covariates tells their shape before it has seen data."""
    pair = dosed()
    if known:
        pair.schema = pair.schema_with(treated(pair))
    found = empty(pair, 4, {"dose": dose, "donor": 1})
    assert found["dose"].shape == shape and found["donor"].shape == (4,)
    if len(torch.as_tensor(dose).flatten()) == 4:
        assert found["dose"].flatten().tolist() == dose


@pytest.mark.parametrize("donor", [1.5, -1, [0, 0.5]])
@pytest.mark.parametrize("known", [False, True])
def test_a_class_is_a_whole_number(donor, known):
    pair = dosed()
    if known:
        pair.schema = pair.schema_with(treated(pair))
    with pytest.raises(ValueError, match=r"'donor' is .*, expected a class") as error:
        empty(pair, 2, {"dose": 0.5, "donor": donor})
    assert "\n" not in str(error.value)


def test_predictions_at_a_number_for_each_row(known):
    pair, table = known.float(), treated(known)
    doses = torch.linspace(0, 1, len(table))
    one, other = (
        export.posterior(pair, table, draws=2, prior_draws=0, covariates={"dose": value})
        for value in (doses.tolist(), doses.unsqueeze(1))
    )
    assert one.posterior_predictive.x.equals(other.posterior_predictive.x)
