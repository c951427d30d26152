"""All metrics at once: the same numbers as one by one, from what is made once."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import boosted_trees
from ppl_models.inference.posterior.export import load, save
from ppl_models.inference.posterior.groups import as_inference_data, groups_of


def table(rows: int = 240, seed: int = 0) -> metrics.CodeTable:
    draw = np.random.default_rng(seed)
    factors = np.stack([draw.integers(size, size=rows) for size in (2, 3)], 1)
    codes = np.concatenate([factors, draw.normal(size=(rows, 1))], 1)
    codes = codes + 0.2 * draw.normal(size=codes.shape)
    return metrics.from_arrays(codes, factors, source={"pair": "none"})


VOTES = {"votes": 200}  # the study has 10,000


def test_together_they_are_what_they_are_one_by_one():
    rows = table()
    train, test = rows.split(160, 80, seed=3)
    whole = metrics.evaluate(rows, train_rows=160, test_rows=80, seed=3, **VOTES)
    alone = [
        metrics.mig(train), metrics.modularity(train), metrics.med(train), metrics.irs(train),
        metrics.unconfoundedness(train), metrics.unsupervised_scores(train),
        metrics.explicitness(train, test), metrics.sap(train, test),
        metrics.dci(train, test, seed=3), metrics.sap_continuous(train),
        metrics.beta_vae_score(rows, votes=200, test_votes=100, seed=3),
        metrics.factor_vae_score(rows, votes=200, test_votes=100, seed=3),
        metrics.mutual_information(train), metrics.logistic_informativeness(train, test),
    ]  # fmt: skip
    assert {name for part in alone for name in part.data_vars} == set(whole.data_vars)
    for part in alone:
        for name, values in part.data_vars.items():
            np.testing.assert_array_equal(whole[name].values, values.values, err_msg=str(name))
            assert whole[name].attrs == values.attrs
    assert whole.attrs["rows"] == 160 and whole.attrs["test_rows"] == 80
    assert whole.attrs["pair"] == "none" and "version_scikit_learn" in whole.attrs


def test_trees_are_grown_once(monkeypatch):
    grown, whole = [], boosted_trees.boosted

    def counted(*args):
        grown.append(1)
        return whole(*args)

    monkeypatch.setattr(boosted_trees, "boosted", counted)
    counts = {}
    rows = table(60)
    for names in (("dci",), ("reduced_downstream",), ("dci", "reduced_downstream")):
        grown.clear()
        metrics.evaluate(rows.rows(slice(None)), metrics=names)
        counts[names] = len(grown)
    assert counts["dci",] == 2  # one for each factor
    assert counts["dci", "reduced_downstream"] == counts["reduced_downstream",]


def test_seeds_decide_and_the_global_random_state_is_left_alone():
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    one, again, other = (metrics.evaluate(table(), seed=s, **VOTES) for s in (0, 0, 1))
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    assert one.equals(again) and not one.equals(other)


def test_a_test_table_is_asked_whole():
    train, test = table(), table(seed=1)
    found = metrics.evaluate(train, test, metrics=("explicitness",))
    assert found.attrs["rows"] == found.attrs["test_rows"] == 240
    exact = metrics.explicitness(train, test)
    assert float(found.explicitness_test) == float(exact.explicitness_test)


def test_what_does_not_fit_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "mig", lambda given: pytest.fail("work was done"))
    rows = table()
    with pytest.raises(ValueError, match="unknown metric 'mgi': did you mean 'mig'"):
        metrics.evaluate(rows, metrics=("mig", "mgi"))
    with pytest.raises(ValueError, match="the test table has other code_names than the table"):
        metrics.evaluate(rows, rows.with_codes([0, 1]), metrics=("mig",))
    with pytest.raises(ValueError, match="metrics is 'mig', expected a tuple"):
        metrics.evaluate(rows, metrics="mig")
    with pytest.raises(ValueError, match=r"metrics are \(\), expected at least one"):
        metrics.evaluate(rows, metrics=())
    with pytest.raises(ValueError, match="seed is -1"):
        metrics.evaluate(rows, metrics=("mig",), seed=-1)


def test_scores_are_a_group_of_a_posterior_and_of_its_file(tmp_path):
    scores = metrics.evaluate(table(), metrics=("mig", "irs"))
    idata = az.from_dict(posterior={"z": np.zeros((1, 4))})
    both = groups_of(metrics.attach(idata, scores))
    assert both["metrics"].equals(scores) and "posterior" in both
    save(as_inference_data({metrics.GROUP: scores}, {}), tmp_path / "scores.nc")
    read = groups_of(load(tmp_path / "scores.nc"))["metrics"]
    assert float(read.mig) == float(scores.mig)
    assert list(read.code.values) == list(scores.code.values)
    assert read.mig.attrs["bins"] == 20 and read.attrs["rows"] == scores.attrs["rows"]
