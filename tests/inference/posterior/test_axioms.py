"""Axioms of counterfactuals: held by a sound story, and each broken by a fault of its own."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch.testing import assert_close
from worlds.stories.causes import CausesConfig, causes, rows

import ppl_models as zoo
from ppl_models import Batch, counterfactuals, data, inference
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import groups_of

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def apart(one, other):
    """Mean distance in units of the range of the second; of classes the share that differ."""
    if not other.is_floating_point():
        return float((one != other).double().mean())
    return float((one - other).abs().mean() / (other.max() - other.min()))


@DTYPES
@pytest.mark.parametrize("known", [True, False])
def test_a_sound_story_obeys_them(dtype, known):
    """Causes to rounding; x, of which the guide tells z anew, but for what z is off."""
    pair, batch = causes(dtype), rows(dtype, known=known)
    exact = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    null = inference.null_intervention(pair, batch)
    assert float(null["largest"].max()) < exact
    assert not null["made"].any()
    for site in null["site"].values:  # the others' values stand in for the cause's own
        moved = apart(batch[str(site)].roll(1, 0), batch[str(site)]) if site in batch else 0.0
        assert_close(null["change"].sel(site=site).values, np.full(3, moved), rtol=1e-5, atol=0)
    for axiom in (inference.composition, inference.reversibility):
        found = axiom(pair, batch)
        assert list(found["set_site"].values) == ["a", "b", "c"]
        of_causes = found.sel(site=["a", "b", "c"])
        assert float(of_causes["error"].max()) < exact
    # What does not depend on the cause stays; what does follows it.
    (ab, ac, bc), off = pair.slopes.tolist(), {n: batch[n].roll(1, 0) - batch[n] for n in "abc"}
    follows = {
        "a": {"a": 1.0, "b": ab, "c": ac + ab * bc},
        "b": {"b": 1.0, "c": bc},
        "c": {"c": 1},
    }
    for cause, site in itertools.product("abc", "abc"):
        exact = apart(follows[cause].get(site, 0) * off[cause] + batch[site], batch[site])
        assert float(found["change"].sel(set_site=cause, site=site)) == pytest.approx(
            exact, rel=1e-4
        )
    # And what does not depend on the cause stays, to the bit.
    stays = inference.non_descendants(pair, batch)["largest"]
    assert stays.isnull().values[:, :3].tolist() == np.triu(np.ones((3, 3), bool)).tolist()
    assert float(stays.max()) == 0
    assert [name for name in stays["site"].values if null["drawn"].sel(site=name)] == ["k"] * known


def test_a_reading_of_the_data_tells_whether_they_show_what_was_set():
    """x is linear in b: an oracle that inverts the decoder reads the value exactly."""
    torch.manual_seed(0)
    pair, batch = causes(torch.float64, size=6), rows()
    weights = pair.decoder.detach()[0]
    with torch.no_grad():
        pair.decoder[1:] = 0  # x = b w + noise, and nothing else
        pair.scales[3] = 1e-9
        x = batch["b"] @ weights[None]
    batch = batch.replace({**batch, "x": x})

    def reads(x):
        return x @ weights / weights.square().sum()

    found = inference.effectiveness(pair, batch, {"b": batch["b"] + 3}, {"b": reads})
    span = float(batch["b"].max() - batch["b"].min())
    assert float(found["error"][0]) == pytest.approx(0, abs=1e-7)
    assert float(found["change"][0]) == pytest.approx(3 / span)
    assert float(found["own"][0]) == pytest.approx(0, abs=1e-7)
    # An oracle that is blind to it, and a cause that data do not show.
    blind = inference.effectiveness(pair, batch, None, {"b": lambda x: x[:, 0] * 0})
    assert float(blind["error"][0]) == pytest.approx(float(blind["change"][0]))
    hidden = inference.effectiveness(pair, batch, None, {"c": reads})
    assert float(hidden["error"][0]) == pytest.approx(float(hidden["change"][0]), rel=1e-6)


def off_by_one(self, *arguments):
    """Noise is that of the row and 1 more."""
    found = OWN(self, *arguments)
    noise = {
        name: (family, value + 1 if value.dim() > 1 else value)
        for name, (family, value) in found.noise.items()
    }
    return counterfactuals.Abducted(found.values, noise)


OWN = counterfactuals.Graph.abduct


@pytest.mark.parametrize("axiom", ["null_intervention", "composition", "reversibility"])
def test_noise_that_is_not_the_rows_breaks_them(axiom, monkeypatch):
    """Each world moves c by its noise and by b's; after a and then b are set, by its own alone."""
    monkeypatch.setattr(counterfactuals.Graph, "abduct", off_by_one)
    pair, batch = causes(), rows()
    found = getattr(inference, axiom)(pair, batch)
    _, of_b, of_c, _ = pair.scales.tolist()
    both = pair.slopes.tolist()[2] * of_b + of_c
    moved = {"null_intervention": both, "composition": of_c, "reversibility": 2 * both}[axiom]
    exact = apart(batch["c"] + moved, batch["c"])
    assert float(found["error"].sel(set_site="a", site="c")) == pytest.approx(exact, rel=1e-6)


def table(pair, count=60):
    with torch.no_grad():
        trace = pyro.poutine.trace(pair.model).get_trace(Batch({}, torch.arange(count)))
    sites = {name: trace.nodes[name]["value"] for name in ("a", "b", "c", "x")}
    return data.from_arrays(**{name: value.float().numpy() for name, value in sites.items()})


@pytest.mark.parametrize("made", [False, True])
def test_an_export_has_them_and_a_verdict_says_them(made, tmp_path):
    pair = causes(torch.float32, made=made)
    rows_ = table(pair).train
    w = pair.decoder.detach()[0]
    idata = export.posterior(
        pair, rows_, draws=20, prior_draws=0, path=tmp_path / "p.nc", oracle={"b": lambda x: x @ w}
    )
    group = groups_of(idata)["axioms"]
    assert list(group["set_site"].values) == ["a", "b", "c"]
    assert list(group["site"].values) == ["a", "b", "c", "x"]
    assert bool(group["null_made"].sel(site="x")) == made
    assert math.isnan(float(group["effectiveness_error"].sel(set_site="a")))
    found = {check.name: check for check in inference.verdict(idata).findings}
    assert found["null intervention"].variable == "x" if made else found["null intervention"].ok
    assert {"composition", "reversibility", "effectiveness"} <= set(found)
    assert found["effectiveness"].variable == "b"
    # The guide's draws are the same with and without.
    again = export.posterior(pair, rows_, draws=20, prior_draws=0)
    np.testing.assert_array_equal(again.posterior["z"], idata.posterior["z"])


def test_what_cannot_be_told_is_left_out_and_an_oracle_then_refused():
    class Gamma(type(causes())):
        def model(self, batch):
            with self.plate(batch):
                a = pyro.sample(
                    "a", dist.Gamma(2.0, torch.ones(1)).to_event(1), obs=batch.get("a")
                )
                b = dist.Gamma(1 + a, 1.0).to_event(1)
                b = pyro.sample("b", b, obs=batch.get("b"))
                pyro.sample("c", dist.Normal(b, 1.0).to_event(1), obs=batch.get("c"))
                pyro.sample("k", dist.Categorical(logits=torch.zeros(3)), obs=batch.get("k"))
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample(
                    "x",
                    dist.Normal(b.expand(*b.shape[:-1], 6), 1.0).to_event(1),
                    obs=batch.get("x"),
                )

    pair = Gamma(CausesConfig())
    rows_ = table(pair).train
    idata = export.posterior(pair, rows_, draws=20, prior_draws=0)
    (left,) = [f for f in inference.verdict(idata).findings if f.left_out]
    assert left.name == "null intervention" and "Gamma cannot be told" in left.fact
    with pytest.raises(ValueError, match="noise behind a value of Gamma cannot be told"):
        export.posterior(pair, rows_, draws=20, prior_draws=0, oracle={"a": lambda x: x[:, :1]})


@pytest.mark.parametrize(
    ("oracle", "sentence"),
    [
        ({"z": lambda x: x}, "oracle: unknown cause 'z': expected one of a, b, c"),
        ({"a": lambda x: x}, "the oracle of 'a' tells values of shape (7, 6), expected (7, 1)"),
    ],
)
def test_oracles_that_do_not_fit_are_refused(oracle, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        inference.effectiveness(causes(), rows(), None, oracle)


@pytest.mark.parametrize("value", [0.3, [0.3], torch.full((1,), 0.3, dtype=torch.float64)])
def test_what_an_oracle_should_read_keeps_its_digits(value):
    pair, batch = causes(), rows()
    found = inference.effectiveness(pair, batch, {"b": value}, {"b": lambda x: x[:, :1] * 0 + 0.3})
    assert float(found["error"][0]) == 0
    said = "the value for site 'b' has shape (2,), expected one that broadcasts to (7, 1)"
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        inference.effectiveness(pair, batch, {"b": [1.0, 2.0]}, {"b": lambda x: x[:, :1]})


def test_pairs_without_causes_and_single_rows_are_refused():
    few = Batch({name: value[:1] for name, value in rows().items()})
    with pytest.raises(ValueError, match="has 1 rows, expected at least 2"):
        inference.null_intervention(causes(), few)
    digits = data.load("digits")
    pair = zoo.build("vae", digits, hidden=(4,), latent=2)
    (batch,) = digits.test.batches(torch.arange(3))
    with pytest.raises(ValueError, match="card 'vae' has no causes"):
        inference.reversibility(pair, batch)
    with pytest.raises(
        ValueError, match="an oracle reads causes or modalities, and card 'vae' has none"
    ):
        export.posterior(pair, digits.test, oracle={"a": lambda x: x})


def test_a_verdict_takes_masks_that_are_known():
    """Of the group structure, by chain or not."""
    from worlds.made_up import made_up

    probs = np.array([[0.9, 0.1, 0.9], [0.9, 0.05, 0.2]])
    structure = xr.Dataset({"target_probs": (("chain", "a", "j"), probs[None])})
    idata = made_up(np.zeros((100, 50)), structure=structure)
    right = inference.verdict(idata, {"target_probs": [[1, 0, 1], [1, 0, 0]]})
    wrong = inference.verdict(idata, {"target_probs": [[0, 1, 0], [0, 1, 1]]})
    for found, ok in ((right, True), (wrong, False)):
        (check,) = [f for f in found.findings if f.name == "masks"]
        assert check.ok == ok
    assert check.figure == pytest.approx(0.9)  # of three that are probably there, none is
    with pytest.raises(ValueError, match="masks: no 'gamma' in group structure, which has"):
        inference.verdict(idata, {"gamma": [1]})
