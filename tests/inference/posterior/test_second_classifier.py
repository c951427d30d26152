"""Second classifiers on parts of the code: what they are given, and what they answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier

import ppl_models as zoo
from ppl_models import data
from ppl_models.inference import Secondary, code_features, exchanged_features


@pytest.fixture(scope="module")
def pair():
    return zoo.build("chroma_vae", seed=2, data_dim=6, shortcut=2, rest=3, hidden=(8,))


@pytest.fixture(scope="module")
def table():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(700) % 2
    x = torch.rand(700, 6, generator=g) + y[:, None]
    return data.Table("t", {"x": x, "y": y}, observed={"y": torch.arange(700) % 7 > 0})


class Remember:
    """An estimator that keeps what it is given and answers class 1 with the first feature."""

    classes_ = np.array([0, 1])

    def __init__(self):
        self.seen = []

    def partial_fit(self, x, y, classes):
        self.seen.append((x, y, classes))

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-x[:, 0]))
        return np.stack([1 - p, p], 1)


def test_means_of_parts_stand_side_by_side(pair, table):
    x = table.sites["x"]
    with torch.no_grad():
        hand = torch.cat([pair.guide.factor(s, {"x": x}).mean for s in ("z2", "z1")], -1)
    nearest = Secondary(pair, KNeighborsClassifier(3), code_features(pair, ["z2", "z1"]))
    nearest.fit(table)
    seen = table.observed["y"]
    alone = KNeighborsClassifier(3).fit(hand[seen], table.sites["y"][seen])
    assert nearest.predict(table).tolist() == alone.predict(hand).tolist()


def test_every_pass_sees_fresh_draws_of_the_labelled_rows(pair, table):
    second = Secondary(pair, Remember(), code_features(pair, ["z2"], draw=True))
    second.fit(table, passes=60)
    seen = table.observed["y"]
    q = pair.guide.factor("z2", {"x": table.sites["x"][seen]}).base_dist
    draws = torch.stack([torch.from_numpy(x) for x, _, _ in second.estimator.seen])
    noise = ((draws - q.loc) / q.scale).detach()
    assert noise.shape == (60, 600, 3)
    assert float(noise.mean()) == pytest.approx(0, abs=4 / noise.numel() ** 0.5)
    assert float(noise.var()) == pytest.approx(1, abs=4 * (2 / noise.numel()) ** 0.5)
    assert all(y.tolist() == table.sites["y"][seen].tolist() for _, y, _ in second.estimator.seen)
    assert second.estimator.seen[0][2] == [0, 1]
    again = Secondary(pair, Remember(), code_features(pair, ["z2"], draw=True)).fit(table, 2)
    assert np.array_equal(again.estimator.seen[1][0], second.estimator.seen[1][0])


def test_probabilities_are_averaged_over_draws(pair, table):
    few = table.rows(torch.arange(5)).without("y")
    second = Secondary(pair, Remember(), code_features(pair, ["z2"], draw=True), draws=100)
    q = pair.guide.factor("z2", {"x": few.sites["x"]}).base_dist
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1))
    each = (q.loc[:, 0] + q.scale[:, 0] * noise).sigmoid().detach()
    got = second.probabilities(few)
    error = 5 * each.std(0) * (1 / 100 + 1 / 200_000) ** 0.5
    assert bool(((got[:, 1] - each.mean(0)).abs() < error).all())
    torch.testing.assert_close(got.sum(-1), torch.ones(5).double())
    assert second.predict(few).tolist() == (got[:, 1] > 0.5).long().tolist()


def test_exchanged_sites_come_from_the_pool_and_the_rest_stays(pair, table):
    """With a pool of one row all rows are decoded with that row's z1."""
    pool = zoo.Batch({"x": table.sites["x"][:1]})
    batch = zoo.Batch({"x": table.sites["x"][:50]})
    torch.manual_seed(0)
    found = exchanged_features(pair, pool, ["z1"])(batch)
    torch.manual_seed(0)
    torch.randint(1, (50,))
    with torch.no_grad():
        z1 = pair.guide(zoo.Batch({"x": pool["x"].expand(50, 6)}))["z1"]
        z2 = pair.guide(batch)["z2"]
        torch.testing.assert_close(found, pair.decoder(z1=z1, z2=z2))


def test_the_error_is_that_of_the_predictions(pair, table):
    full = data.Table("t", dict(table.sites) | {"y": torch.arange(700) % 2})
    second = Secondary(pair, LogisticRegression(), lambda batch: batch["x"]).fit(table)
    wrong = (second.predict(full) != full.sites["y"]).double().mean()
    assert second.error(full) == float(wrong) < 0.05  # the classes are far apart


def test_classes_without_rows_are_never_predicted(pair, table):
    y = table.sites["y"].masked_fill(~table.observed["y"], 0) * 2
    sites = {"x": table.sites["x"], "y": y}
    wide = data.Table("t", sites, classes={"y": ("a", "b", "c")})
    second = Secondary(pair, KNeighborsClassifier(3), lambda batch: batch["x"]).fit(wide)
    assert set(second.predict(wide).tolist()) == {0, 2}
    online = Secondary(pair, SGDClassifier(loss="log_loss"), lambda batch: batch["x"])
    assert online.fit(wide, passes=3).estimator.classes_.tolist() == [0, 1, 2]


def test_what_does_not_fit_is_refused(pair, table):
    with pytest.raises(ValueError, match="KNeighborsClassifier has no partial_fit"):
        Secondary(pair, KNeighborsClassifier(), lambda batch: batch["x"]).fit(table, passes=2)
    with pytest.raises(ValueError, match="unknown site 'yy': did you mean 'y'"):
        Secondary(pair, KNeighborsClassifier(), lambda b: b["x"], label="yy").fit(table)
    with pytest.raises(ValueError, match="draws is 0"):
        Secondary(pair, KNeighborsClassifier(), lambda batch: batch["x"], draws=0)
