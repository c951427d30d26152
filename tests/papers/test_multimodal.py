"""MVAE, MMVAE, MoPoE and MEME: what is special to each, and their life on rows with gaps."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close
from worlds.modalities import FIVE, LATENT, every_pattern, five, two, values
from worlds.whole_life import QUIET, compiled, resumed

import ppl_models as zoo
from ppl_models import Batch, data, inference, modalities
from ppl_models.data.tables.marked import marked
from ppl_models.modalities import mark

PAPERS = pytest.mark.parametrize("name", ["mvae", "mmvae", "mopoe", "meme"])


def table_of(pair, times=4):
    """Rows of every pattern as a table with gaps."""
    batch, _ = every_pattern(pair, times=times)
    sites = pair.config.modalities
    masks = {name: batch[mark(name)] > 0 for name in sites}
    return data.Table("rows", values(pair, batch.count), observed=masks)


@pytest.mark.parametrize(  # they share stories' plates and masks, which is what is traced
    "name",
    ["mvae", *(pytest.param(n, marks=pytest.mark.long) for n in ("mmvae", "mopoe", "meme"))],
)
def test_a_killed_and_a_compiled_run_are_the_same(name, tmp_path):
    rows = table_of(two(name, torch.float32))
    options = {"epochs": 2, "batch_size": 6, "seed": 1, **QUIET}
    run = inference.fit(two(name, torch.float32), rows, **options)
    again = resumed(lambda: two(name, torch.float32), rows, tmp_path, **options)
    quick = compiled(lambda: two(name, torch.float32), rows, **options)
    for key, value in run.pair.state_dict().items():
        assert_close(again.pair.state_dict()[key], value, rtol=0, atol=0)
        assert_close(quick.pair.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_31_patterns_come_in_one_batch():
    pair = five("mvae", torch.float32)
    rows, seen = table_of(pair, times=1), []
    assert len(rows.regimes()) == 31
    model = pair.model
    pair.model = lambda batch: (seen.append((frozenset(batch), batch.count)), model(batch))[1]
    inference.fit(pair, rows, inference.ELBO(), steps=3, batch_size=10, **QUIET)
    full = frozenset(FIVE) | {mark(site) for site in FIVE}
    assert [told for told in seen if told[1] == 10] == 3 * [(full, 10)]


@pytest.mark.parametrize("name", ["mvae", "mopoe"])
def test_any_modality_from_any_subset(name):
    pair = five(name)
    _, apart = every_pattern(pair)
    for batch in apart[::3]:
        torch.manual_seed(0)
        found = pair.intervene(batch, draws=2)
        z = found["z"]
        for site in FIVE:
            wanted = batch[site].expand(2, *batch[site].shape) if site in batch else None
            fn = pair.modalities.decoders[site](z)
            if site not in batch and site != "words":  # a class has no mean
                wanted = fn.mean
            assert found[site].shape[:2] == (2, 1)
            if wanted is not None:
                assert_close(found[site], wanted)
        # Set by the user, it stays, and the others follow the code as before.
        missing = next((site for site in FIVE if site not in batch), None)
        if missing is not None:
            value = pair.intervene(batch, mean=False)[missing]
            assert_close(pair.intervene(batch, **{missing: value})[missing], value)


@PAPERS
def test_an_export_keeps_what_each_row_has(name):
    pair = two(name, torch.float32)
    rows = table_of(pair, times=2)
    run = inference.fit(pair, rows, epochs=1, batch_size=3, **QUIET)
    idata = run.posterior(rows, draws=300, prior_draws=5)
    for site in ("s", "t"):
        there = rows.observed[site].numpy()
        shown = np.where(there[:, None], rows.sites[site].numpy(), np.nan)
        np.testing.assert_array_equal(idata.observed_data[site].values, shown)
        assert (idata.observed_data[mark(site)].values == there).all()
        likelihood = idata.log_likelihood_by_site[site].values[0]
        assert (likelihood[:, ~there] == 0).all() and (likelihood[:, there] != 0).all()
        # What rows lack is predicted, too: about the decoder's means at the codes.
        made = idata.posterior_predictive[site].values[0]
        fn = pair.modalities.decoders[site](torch.tensor(idata.posterior.z.values[0, : len(made)]))
        off = torch.tensor(made) - fn.mean.detach()
        assert bool((off.mean(0).abs() < 5 * fn.stddev.max() / len(made) ** 0.5).all())
    assert idata.attrs["given"] == "s, t"
    # By pattern: what the rows of one have by themselves, given what they have.
    weights = idata.sample_stats.log_weight.values[0]
    smoothed = [float(az.psislw(weights[:, row])[1]) for row in range(6)]
    np.testing.assert_allclose(idata.diagnostics.khat.values, smoothed, atol=1e-5)
    alone = rows.rows(rows.observed["s"].nonzero().flatten()).only("s")
    of_s = run.posterior(alone, draws=300, given=("s",))
    place = [int(n) for n in np.flatnonzero(~rows.observed["t"].numpy())]
    bound = idata.diagnostics.iw_bound.values[place]
    by_number = of_s.diagnostics.iw_bound.sel(datum=idata.posterior.datum.values[place]).values
    # The same bound of log p(s) from other draws; its error is that of 300 draws each.
    spread = idata.sample_stats.log_weight.values[0][:, place].std(0)
    assert (np.abs(bound - by_number) < 1 + spread).all()
    assert "t" in of_s.posterior_predictive and "t" not in of_s.log_likelihood


def test_rows_that_have_nothing_that_is_given_are_refused():
    pair = two("mvae", torch.float32)
    rows = table_of(pair, times=1)
    run = inference.fit(pair, rows, steps=1, batch_size=3, **QUIET)
    with pytest.raises(ValueError, match="row 1 of rows has none of 's'") as caught:
        run.posterior(rows, draws=2, given=("s",))
    assert "\n" not in str(caught.value)
    nothing = {site: torch.tensor([True, False, True]) for site in ("s", "t")}
    with pytest.raises(ValueError, match="row 1 of rows has none of 's', 't', expected at least"):
        marked(data.Table("rows", values(pair, 3), observed=nothing), ("s", "t"))


def test_a_table_without_gaps_has_no_marks():
    pair = two("mvae", torch.float32)
    rows = data.Table("rows", values(pair, 5))
    assert set(marked(rows, ("s", "t")).sites) == {"s", "t"}


def test_the_story_leaves_out_what_rows_lack():
    pair = two("mvae")
    batch = Batch({"s": values(pair, 3)["s"]})
    assert modalities.told(batch, ("s", "t")) == ["s"]
    with modalities.predicted():
        assert modalities.told(batch, ("s", "t")) == ["s", "t"]
        assert modalities.told(modalities.only(batch, {"s"}, ("s", "t")), ("s", "t")) == ["s"]
    assert modalities.told(Batch({}, torch.arange(3)), ("s", "t")) == ["s", "t"]


@pytest.mark.parametrize("known", [("s", "t"), ("s",), ("t",), ()])
def test_memes_prior_is_that_of_learnt_rows(known):
    pair = two("meme", pseudo=5)
    sites = {n: v for n, v in values(pair, 4).items() if n in known}
    batch = Batch(sites, torch.arange(4))
    z = torch.randn(4, LATENT, dtype=torch.float64)
    trace = poutine.trace(poutine.condition(pair.model, {"z": z})).get_trace(batch)
    lacks = [n for n in ("s", "t") if n not in known] if len(known) == 1 else ["s", "t"]
    each = []
    for inputs in pair.pseudo:
        if inputs.site in lacks:
            expert = pair.modalities.experts[("s", "t").index(inputs.site)]
            each += [expert(**{inputs.site: u}).log_prob(z) for u in inputs.free]
    wanted = torch.stack(each).exp().mean(0).log()
    assert_close(trace.nodes["z"]["fn"].log_prob(z), wanted)


@pytest.mark.parametrize("kinds", [("laplace", "normal"), ("tokens", "counts")])
def test_learnt_rows_begin_at_rows_of_the_data(kinds):
    pair = two("meme", sizes=(4, 3), kinds=kinds, words=4, pseudo=3)
    batch, _ = every_pattern(pair, times=2)
    with torch.no_grad():
        pair.begin(batch)
    for inputs, site in zip(pair.pseudo, ("s", "t"), strict=True):
        rows = batch[site][batch[mark(site)] > 0][:3]
        if kinds[0] == "laplace":
            assert_close(inputs.free, rows)
        elif site == "s":
            assert torch.equal(inputs.free.argmax(-1), rows)
        else:
            assert_close(torch.nn.functional.softplus(inputs.free), rows.clamp(min=0.05))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kinds": ("laplace", "lapalce")}, "kind of modality 'lapalce': did you mean 'laplace'"),
        ({"kinds": ("laplace",)}, "kinds are .* expected one for each of"),
        ({"modalities": ("s", "s")}, "expected different names"),
        ({"modalities": ("a", "b", "c"), "sizes": (1, 2, 3), "kinds": ("normal",) * 3,
          "scales": (1.0,) * 3}, "expected two"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        zoo.build("meme", **settings)
    assert "\n" not in str(caught.value)
