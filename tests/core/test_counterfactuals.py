"""Counterfactuals against closed forms: what is set, what follows, what stays to the bit."""

from __future__ import annotations

import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds import covariates, inner_plates
from worlds.shared_sites import shared
from worlds.stories.causes import Causes, causes, rows
from worlds.unscored import Generator

import ppl_models as zoo
from ppl_models import Batch, guides, set_sites
from ppl_models.counterfactuals import Graph
from ppl_models.data import Table
from ppl_models.exogenous import noise_of
from ppl_models.guides.inverse_guide import dependencies
from ppl_models.inference.posterior.export import posterior
from ppl_models.networks import Label, Scalar
from ppl_models.parts import scm

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def close(found, wanted, dtype):
    """To rounding, relative to the range of all entries."""
    tol = TOLERANCE[dtype] * max(1.0, float(wanted.detach().abs().max()))
    assert_close(found, wanted, rtol=0, atol=tol)


def in_closed_form(pair, batch, found, b=None, **do):
    """What the causes move to by their slopes; x by what its mean moves by."""
    ab, ac, bc = pair.slopes
    a = do.get("a", batch["a"])
    own = batch["b"] + ab * (a - batch["a"])
    b = own if b is None else b
    c = batch["c"] + ac * (a - batch["a"]) + bc * (b - batch["b"])
    c = do.get("c", c)
    z = found["z"]
    moved = pair.decoded(b, c, found["k"], z) - pair.decoded(batch["b"], batch["c"], batch["k"], z)
    return {"a": a, "b": b, "c": c, "x": batch["x"] + moved}


@DTYPES
@pytest.mark.parametrize("site", ["a", "b", "c"])
@pytest.mark.parametrize("draws", [None, 3])
def test_what_is_set_moves_what_depends_on_it_as_in_closed_form(dtype, site, draws):
    pair, batch = causes(dtype), rows(dtype)
    value = batch[site].flip(0) + 0.5
    with torch.no_grad():
        found = pair.counterfactual(batch, draws=draws, **{site: value})
        wanted = in_closed_form(pair, batch, found, **{site: value})
    for name, expected in wanted.items():
        shape = (
            expected.shape if draws is None or expected.dim() == 3 else (draws, *expected.shape)
        )
        close(found[name], expected.expand(shape), dtype)
    assert pair.training


@pytest.mark.parametrize("wrong", ["new parents", "guide"])
def test_the_closed_form_tells_a_wrong_abduction(wrong, monkeypatch):
    """Noise at the new parents leaves b where it was; a guide that sees the new b moves z."""
    pair, batch = causes(), rows()
    moved = batch.replace({**batch, "b": batch["b"].flip(0)})
    torch.manual_seed(0)
    right = pair.counterfactual(batch, b=moved["b"])
    if wrong == "guide":
        torch.manual_seed(0)
        with torch.no_grad():
            assert torch.equal(right["z"], pair.guide(batch)["z"])
            torch.manual_seed(0)
            assert not torch.equal(right["z"], pair.guide(moved)["z"])
        return
    own = Graph.abduct
    monkeypatch.setattr(Graph, "abduct", lambda s, b, k, v: own(s, moved, k, v))
    found = pair.counterfactual(batch, b=moved["b"])
    with torch.no_grad(), pytest.raises(AssertionError, match="not close"):
        close(found["c"], in_closed_form(pair, batch, found, b=moved["b"])["c"], torch.float64)


def test_what_does_not_depend_on_it_stays_to_the_bit():
    pair, batch = causes(torch.float32), rows(torch.float32)
    for site, staying in (("a", "z"), ("b", "az"), ("c", "abkz"), ("k", "abcz"), ("x", "abckz")):
        torch.manual_seed(0)
        with torch.no_grad():
            z = pair.guide(batch)["z"]
        torch.manual_seed(0)
        found = pair.counterfactual(batch, **{site: batch[site].flip(0)})
        for name in staying:
            assert torch.equal(found[name], z if name == "z" else batch[name]), (site, name)


class Mechanisms(Causes):
    """Variables of every kind of mechanism, and x of them all."""

    def __init__(self, config):
        super().__init__(config)
        m, one, wide = scm.Mechanism, Scalar(), {"a": Scalar(), "b": Scalar()}
        spread = partial(scm.Spline, hidden=(4,))
        self.scm = scm.SCM(
            a=m({}, scm.Spline, outer=(scm.Positive(0.5, 0.3),)),
            b=m({"a": one}, scm.Affine, spread, outer=(scm.Between(0.0, 255.0),)),
            c=m(wide, scm.Autoregressive, outer=(scm.Units(1.0, 5.0),), size=3),
            k=scm.Classes(3, {"b": one}),
        )
        for parameter in self.scm.parameters():
            nn.init.normal_(parameter, std=0.2)  # slopes of the order of one
        self.net = nn.Linear(6, config.size)
        given = {"x": config.size}
        self.guide = guides.Factored(
            k=guides.Categorical(3, given), c=guides.Normal(3, {**given, "k": Label(3)})
        )

    def model(self, batch):
        with self.plate(batch):
            v = self.scm.inner(self.scm.sample(batch))
            k = nn.functional.one_hot(v["k"], 3)[..., :1].to(v["a"].dtype)
            u = torch.cat([v["a"][..., None], v["b"][..., None], v["c"], k], -1)
            x = dist.Normal(self.net(u), 0.3).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


def mechanisms(dtype):
    torch.manual_seed(0)
    pair = Mechanisms(Mechanisms.Config()).to(dtype)
    with torch.no_grad():
        trace = pyro.poutine.trace(pair.model).get_trace(Batch({}, torch.arange(40)))
    return pair, Batch({name: trace.nodes[name]["value"] for name in ("a", "b", "c", "k", "x")})


@DTYPES
@pytest.mark.parametrize("known", ["abckx", "abx"])
def test_sites_that_are_set_to_what_they_are_give_the_rows_back(dtype, known):
    """Relative to 1e-6 in float64, and to 1e-5 of the site's range in float32."""
    pair, batch = mechanisms(dtype)
    batch = batch.only(*known)
    for site in ("a", "b"):
        torch.manual_seed(0)
        found = pair.counterfactual(batch, **{site: batch[site]})
        torch.manual_seed(0)
        with torch.no_grad():
            whole = {**pair.guide(batch), **batch}
        assert torch.equal(found["k"], whole["k"])
        for name in ("a", "b", "c", "x"):
            if dtype == torch.float64:
                assert_close(found[name], whole[name], rtol=1e-6, atol=1e-12)
            else:
                spread = whole[name].max() - whole[name].min()
                assert_close(found[name], whole[name], rtol=0, atol=1e-5 * float(spread))


def test_an_scm_pair_moves_as_its_block_does():
    pair, batch = mechanisms(torch.float64)
    values = {name: batch[name] for name in "abc"}
    with torch.no_grad():
        parts = {
            n: noise_of(pair.scm.given(n, {**values, "k": batch["k"]}), values[n]) for n in "abc"
        }
        a = batch["a"] * 1.1
        new = {"a": a}
        for name in "bc":
            new[name] = pair.scm.given(name, new)
            new[name] = zoo.exogenous.value_at(new[name], parts[name])
        found = pair.counterfactual(batch, a=a)
    for name in "abc":
        close(found[name], new[name], torch.float64)


def test_a_generators_rows_are_made_anew():
    pair, batch = causes(made=True), rows()
    assert dependencies(pair.model, batch.without("x"))["x"] == ("b", "c", "k", "z")
    with torch.no_grad():
        found = pair.counterfactual(batch, a=batch["a"])
        close(found["x"], pair.decoded(*(found[n] for n in "bckz")), torch.float64)
        found = pair.counterfactual(batch, c=-1.0)
        c = torch.full_like(batch["c"], -1)
        close(found["x"], pair.decoded(batch["b"], c, batch["k"], found["z"]), torch.float64)


@pytest.mark.parametrize("masked", [True, False])
def test_a_point_at_the_observation_is_made_anew_too(masked):
    """A story may observe its point by putting it where the row is."""
    pair = Generator(Generator.Config(masked=masked)).double()
    batch = Batch({"x": torch.randn(5, 4).double()})
    with torch.no_grad():
        found = pair.counterfactual(batch, draws=2, z=[1.0, 2.0, 0.0, -1.0])
        close(found["x"], pair.made(found["z"]), torch.float64)
    idata = posterior(pair, Table("made", dict(batch)), draws=3, counterfactual={"on": {"z": 1.0}})
    made = idata["counterfactual"]["x"].values[0, :, 0]
    with torch.no_grad():
        close(torch.as_tensor(made), pair.made(torch.ones(3, 5, 4).double()), torch.float64)


def test_labels_that_are_missing_are_the_guides():
    pair, batch = causes(), rows(known=False)
    torch.manual_seed(3)
    found = pair.counterfactual(batch, c=1.0)
    torch.manual_seed(3)
    with torch.no_grad():
        guessed = pair.guide(batch)
        assert torch.equal(found["k"], guessed["k"]) and torch.equal(found["z"], guessed["z"])
        known = batch.replace({**batch, "k": guessed["k"]})
        wanted = in_closed_form(pair, known, found, c=torch.ones_like(batch["c"]))
    close(found["x"], wanted["x"], torch.float64)


def test_classes_follow_the_gumbel_noise_that_they_leave():
    """They are distributed as their model has it, and never move against the odds."""
    pair, count = causes(), 4000
    torch.manual_seed(0)
    with torch.no_grad():
        pair.classes.copy_(torch.tensor([0.5, -0.4, 0.1]))
        b = torch.full((count, 1), 0.7).double()
        k = dist.Categorical(logits=b * pair.classes).sample()
        x = torch.randn(count, 6).double()
        batch = Batch({"a": b, "b": b, "c": b, "k": k, "x": x})
        found = pair.counterfactual(batch, b=-1.5)["k"]
        before, after = ((v * pair.classes).log_softmax(0) for v in (0.7, -1.5))
        share = torch.bincount(found, minlength=3) / count
        error = (after.exp() * (1 - after.exp()) / count).sqrt()
    assert ((share - after.exp()).abs() < 5 * error).all()
    gain = after - before
    moved = found != k
    assert moved.any() and (gain[found[moved]] > gain[k[moved]]).all()


def _wider(fn, shift):
    assert fn.batch_shape == (7,) and fn.event_shape == (1,)
    return dist.Normal(fn.mean + shift, 2 * fn.stddev).to_event(1)


@pytest.mark.parametrize("draws", [None, 4])
def test_a_changed_distribution_carries_the_sites_own_noise(draws):
    """Below a site that is set, and with what has a value for each row."""
    pair, batch = causes(), rows()
    shift = torch.linspace(0, 1, 7).double().unsqueeze(-1)

    with torch.no_grad():
        found = pair.counterfactual(batch, draws=draws, a=1.0, b=lambda fn: _wider(fn, shift))
        a = torch.ones_like(batch["a"])
        u = batch["b"] - pair.slopes[0] * batch["a"]
        b = pair.slopes[0] * a + shift + 2 * u
        for name, expected in in_closed_form(pair, batch, found, b=b, a=a).items():
            close(found[name], expected.expand_as(found[name]), torch.float64)


def test_a_changed_distribution_is_drawn_anew_by_an_intervention():
    pair, batch = causes(), rows()
    with torch.no_grad():
        found = pair.intervene(
            batch, mean=False, draws=60, a=1.0, b=lambda fn: _wider(fn, batch["x"][:, :1])
        )["b"]
        loc, spread = pair.slopes[0] + batch["x"][:, :1], 2 * pair.scales[1].item()
    apart = (found - loc) / spread
    assert apart.shape == (60, 7, 1)
    assert abs(apart.mean().item()) < 5 / 420**0.5
    assert abs(apart.std().item() - 1) < 5 / 840**0.5


def test_a_point_in_a_distributions_place_is_what_its_parents_make_of_it():
    pair, batch = causes(), rows()
    with torch.no_grad():
        found = pair.counterfactual(
            batch, a=2.0, b=lambda fn: dist.Delta(3 * fn.mean, event_dim=1)
        )
        close(found["b"], torch.full((7, 1), 6.0).double() * pair.slopes[0], torch.float64)


@pytest.mark.parametrize(
    "fn", [dist.Normal(3.0, 0.1), dist.Normal(torch.full((1,), 3.0), 0.1).to_event(1)]
)
@pytest.mark.parametrize("how", ["counterfactual", "intervene"])
def test_a_site_is_drawn_from_a_distribution(fn, how):
    pair, batch = causes(), rows()
    ask = getattr(pair, how)
    one, found = ask(batch, a=fn), ask(batch, draws=500, a=fn)
    assert one["a"].shape == (7, 1) and found["a"].shape == (500, 7, 1)
    assert_close(
        found["a"].mean(0), torch.full((7, 1), 3.0).double(), rtol=0, atol=5 * 0.1 / 500**0.5
    )
    assert len(found["a"].unique()) > 3400
    if how == "counterfactual":
        with torch.no_grad():
            close(
                found["b"], batch["b"] + pair.slopes[0] * (found["a"] - batch["a"]), torch.float64
            )


@pytest.mark.parametrize("value", [0.3, [0.3], [[0.3]] * 7, (0.3,)])
@pytest.mark.parametrize("call", ["counterfactual", "intervene"])
def test_numbers_keep_all_their_digits(value, call):
    for dtype in (torch.float32, torch.float64):
        found = getattr(causes(dtype), call)(rows(dtype), c=value)["c"]
        assert torch.equal(found, torch.full((7, 1), 0.3, dtype=dtype))


def test_values_of_draws():
    pair, batch = causes(), rows()
    a = torch.randn(5, 7, 1).double()
    with torch.no_grad():
        found = pair.counterfactual(batch, draws=5, a=a)
        close(found["b"], batch["b"] + pair.slopes[0] * (a - batch["a"]), torch.float64)
    assert len(found["z"].unique()) == 5 * 7 * 2 and torch.equal(found["a"], a)


@pytest.mark.parametrize("told", ["plate", "event"])
@pytest.mark.parametrize("draws", [None, 2])
def test_elements_within_the_rows_follow(told, draws):
    pair, batch = inner_plates.built(told=told, labels=told == "plate"), inner_plates.rows()
    there = batch["x_there"].bool()
    torch.manual_seed(0)
    with torch.no_grad():
        was = pair.counterfactual(batch, draws=draws)
        torch.manual_seed(0)
        found = pair.counterfactual(batch, draws=draws, c=2.0)
    shift = inner_plates.SLOPE * (2.0 - was["c"]).unsqueeze(-1)
    for name in ("z", "x"):
        moved = found[name] - was[name]
        if told == "plate":
            moved = moved.transpose(-1, -2)
        close(moved[..., there], (shift * there)[..., there], torch.float32)
    if told == "plate":
        assert torch.equal(found["s"], was["s"])
    x = was["x"].transpose(-1, -2) if told == "plate" else was["x"]
    assert torch.equal(x[..., there], batch["x"][there].expand_as(x[..., there]))


def test_covariates_are_set_by_name_and_the_guide_sees_the_rows_own():
    pair = covariates.dosed()
    table = covariates.treated(pair)
    pair.schema = pair.schema_with(table)
    (batch,) = table.only("x", "donor", "dose").batches(torch.arange(6))
    batch = batch.to(torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        found = pair.counterfactual(batch, donor="eve", dose=0.3)
        torch.manual_seed(0)
        guessed = pair.guide(batch)
        new = Batch(
            {"donor": torch.full((6,), 2), "dose": torch.full((6, 1), 0.3, dtype=torch.float64)}
        )
        close(found["x"], batch["x"] + pair.moved(new) - pair.moved(batch), torch.float64)
        for name in ("y", "z"):
            assert torch.equal(found[name], guessed[name])
        named = pair.counterfactual(batch, y="c1")["y"]
    assert bool((named == 1).all())
    with pytest.raises(ValueError, match="the batch lacks the covariate 'dose'"):
        pair.counterfactual(batch.without("dose"), y=0)
    with pytest.raises(ValueError, match="'dose' is a covariate and has no distribution"):
        pair.counterfactual(batch, dose=lambda fn: fn)


def test_what_all_rows_share_is_one_value_of_a_draw():
    pair, table = shared(6)
    (batch,) = table.batches(torch.arange(6))
    found = pair.counterfactual(batch, draws=3, z=0.5)
    assert found["w"].shape == (3, 2) and found["x"].shape == (3, 6, 2)
    assert len(found["w"].unique()) == 6
    with torch.no_grad():
        was = pair.counterfactual(batch, draws=3)
        torch.manual_seed(0)
        z = pair.counterfactual(batch, draws=3)["z"]
        torch.manual_seed(0)
        moved = pair.counterfactual(batch, draws=3, z=0.5)["x"]
        shift = (0.5 - z).reshape(3, 6, 1) * pair.a
        close(moved, batch["x"] + shift, torch.float64)
    assert torch.equal(was["x"], batch["x"].expand(3, 6, 2))


def test_chirho_abducts_the_same():
    chirho = pytest.importorskip("chirho.counterfactual.handlers")
    from chirho.indexed.ops import IndexSet, gather
    from chirho.interventional.handlers import do
    from chirho.observational.handlers import condition

    pair, batch = causes(), rows()
    a, b = batch["a"] + 1, batch["b"].flip(0)
    with torch.no_grad(), chirho.MultiWorldCounterfactual(first_available_dim=-2):
        known = {name: batch[name] for name in "abc"}
        told = do(condition(pair.model, data=known), actions={"a": a, "b": b})
        trace = pyro.poutine.trace(told).get_trace(Batch({}, torch.arange(7)))
        c = gather(trace.nodes["c"]["value"], IndexSet(a={1}, b={1}), event_dim=1)
    close(pair.counterfactual(batch, a=a, b=b)["c"], c.reshape(7, 1), torch.float64)


GIVEN = "what is given for site 'b' makes"
SHAPES = "expected a distribution of batch shape (7,) and event shape (1,)"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"q": 1}, "unknown site 'q': expected one of a, b, c, k, x, z"),
        ({"k": 3}, "site 'k' is set to 3, expected one of its 3 classes 0, 1, 2"),
        ({"a": torch.zeros(5)}, "the value for site 'a' has shape (5,), expected one that"),
        ({"a": dist.Normal(torch.zeros(5), 1)}, "site 'a' is set to draws of Normal (batch shape "
         "(5,), event shape ()), expected one that expands to the site's shape (7, 1)"),
        ({"b": lambda fn: 3}, f"{GIVEN} int of its distribution, {SHAPES}"),
        ({"b": lambda fn: dist.Normal(fn.mean, 1)},
         f"{GIVEN} Normal (batch shape (7, 1), event shape ()) of its distribution, {SHAPES}"),
        ({"b": lambda fn: dist.Laplace(fn.mean, 1).to_event(1)}, "site 'b' keeps its noise, which "
         "is Normal, and is given a distribution whose noise is Laplace; expected one of the same "
         "noise, or a Delta"),
        ({"draws": 0}, "draws is 0, expected at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(values, words):
    with pytest.raises(ValueError, match="^" + re.escape(words)) as error:
        causes().counterfactual(rows(), **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", ["counterfactual", "intervene"])
@pytest.mark.parametrize(
    ("site", "shape", "wanted"),
    [("a", (7,), (7, 1)), ("k", (7, 1), (7,)), ("x", (7, 2, 3), (7, 6)), ("c", (7, 2), (7, 1))],
)
def test_rows_of_another_shape_are_refused_in_one_line(call, site, shape, wanted):
    batch = rows()
    batch = batch.replace({**batch, site: torch.zeros(shape).to(batch[site].dtype)})
    said = f"site {site!r} has shape {shape} in the batch, expected {wanted}"
    with pytest.raises(ValueError, match="^" + re.escape(said) + "$"):
        getattr(causes(), call)(batch, b=1.0)


def test_a_site_whose_noise_cannot_be_told_is_refused_before_work(monkeypatch):
    pair = zoo.build("m2", data_dim=6, classes=3, latent=4, hidden=(5,)).double()
    batch = Batch({"x": torch.rand(7, 6, dtype=torch.float64)})
    monkeypatch.setattr(set_sites, "inferred", None)
    with pytest.raises(ValueError, match=r"^site 'x' would move, and the noise .*SoftBernoulli"):
        pair.counterfactual(batch, y=1)


def test_binary_rows_have_a_noise():
    pair = zoo.build(
        "m2", data_dim=6, classes=3, latent=4, hidden=(5,), likelihood="bernoulli"
    ).double()
    batch = Batch({"x": torch.rand(7, 6).round().double(), "y": torch.arange(7) % 3})
    assert torch.equal(pair.counterfactual(batch, y=batch["y"])["x"], batch["x"])
    assert not torch.equal(pair.counterfactual(batch, draws=20, y=0)["x"][0], batch["x"])


def test_a_site_that_nobody_knows_is_refused():
    pair = causes()
    with pytest.raises(
        ValueError, match=r"^site 'a' is not sampled by the guide, and \['b', 'c'\]"
    ):
        pair.counterfactual(rows().without("a"), a=1.0)
