"""The training curve by the names of the loss's parts: recorded, kept, resumed, exported."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
import torch
from worlds import bayesian, run_files
from worlds.processes import together

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.batch import Batch
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import is_addend
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.inference.training.state import State

BOUND = inference.IWELBO(2, lam=0.5)
STEPS = 4


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=20, test=20, labelled=30)


def m2(digits, seed=0):
    with torch.random.fork_rng():
        return zoo.build("m2", digits, seed=seed, hidden=(8,), latent=2)


def fit(pair, digits, **options):
    options = {"epochs": 2, "batch_size": 50, "progress": False, "device": "cpu", **options}
    return inference.fit(pair, digits, **options)


def curves(run):
    return {name: values for name, values in run.history.items() if name != "seconds"}


def same(one, other):
    """Equal to the bit, where a point lacks a part too."""
    assert list(one) == list(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_the_parts_stand_beside_the_loss_and_add_up_to_it(digits):
    pair = m2(digits)
    run = fit(pair, digits, objective=pair.objective(BOUND))
    names = ["step", "stage", "loss", "seconds", "bound", "distillation", "classification(y)"]
    assert list(run.history) == names
    parts = np.array([run.history[name] for name in names[4:]])
    np.testing.assert_allclose(parts.sum(0), run.history["loss"], rtol=1e-5)
    assert (parts[1:] > 0).all()


def test_a_point_is_the_mean_over_its_steps(digits):
    """Of more steps than the curve has points: the same as of all steps, by groups."""
    every, state = [], State()
    names = ("bound", "distillation")
    generator = torch.Generator().manual_seed(0)
    for _ in range(7):
        values = torch.rand(2, generator=generator)
        every.append(values.double())
        state.add(float(values.sum()), names, values)
    loss, parts = state.mean()
    expected = torch.stack(every).mean(0)
    assert list(parts) == list(names) and state.parts == ((), None)
    assert list(parts.values()) == pytest.approx(expected.tolist(), rel=1e-15)
    assert loss == pytest.approx(float(expected.sum()), rel=1e-6)


def test_a_bound_alone_is_there_by_its_name(digits):
    """And behind it what it is made of, which is no addend of the loss."""
    run = fit(m2(digits), digits, objective=inference.EnumeratedELBO())
    names = list(run.history)[4:]
    assert names[0] == "bound" and set(names[1:]) == {"reconstruction", "kl(y)", "kl(z)"}
    assert [is_addend(name) for name in names] == [True, False, False, False]
    np.testing.assert_allclose(run.history["bound"], run.history["loss"], rtol=1e-6)
    made_of = np.sum([run.history[name] for name in names[1:]], axis=0)
    np.testing.assert_allclose(made_of, run.history["bound"], rtol=1e-5)


BOUNDS = {
    "sampled": inference.ELBO(),
    "particles": inference.ELBO(3),
    "analytic": inference.ELBO(kl="analytic"),
    "beta": inference.ELBO(kl="analytic", beta=4.0),
    "free bits": inference.ELBO(free_bits=0.5),
    "enumerated": inference.EnumeratedELBO(2),
    "with a term": inference.EnumeratedELBO() + inference.Classification("y", 2.0),
    "moved": inference.LeftOut(inference.EnumeratedELBO(), "y"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("name", list(BOUNDS))
def test_what_the_bound_is_made_of_is_that_of_its_sites(digits, dtype, scale, name):
    """Against the log densities of the traces, site by site."""
    labels = name in ("enumerated", "with a term", "moved")
    pair = (m2(digits) if labels else zoo.build("vae", digits, hidden=(8,), latent=2)).to(dtype)
    x = next(digits.train.only("x").batches(limit=20))["x"].to(dtype)
    batch = Batch({"x": x}, size=len(x) * scale)
    objective = BOUNDS[name]
    run = objective.run(pair.model, pair.guide, batch)
    with torch.no_grad():
        told = objective.loss_of_kind(run)
    found = dict(zip(told.names, told.values.tolist(), strict=True))
    addends = sum(value for part, value in found.items() if is_addend(part))
    assert addends == pytest.approx(float(told.total), rel=1e-5)
    made_of = [part for part in found if not is_addend(part)]
    assert sum(found[part] for part in made_of) == pytest.approx(found["bound"], rel=1e-5)
    w = objective.evaluation(run).lead
    labels = "y" in w.guide.nodes
    log_q = w.guide.nodes["y"]["fn"].log_prob(w.guide.nodes["y"]["value"]) if labels else None
    for part in made_of:
        site = "x" if part == "reconstruction" else part.removeprefix("kl(").removesuffix(")")
        p = w.model.nodes[site]
        value = -p["fn"].log_prob(p["value"])
        if site != "x":
            q = w.guide.nodes[site]
            value = value + q["fn"].log_prob(q["value"])
            if name in ("analytic", "beta"):
                value = torch.distributions.kl_divergence(q["fn"], p["fn"])
        if labels:
            value = (value * log_q.exp()).sum(0)
        value = value.reshape(-1, len(x)).mean(0).sum() * scale
        assert found[part] == pytest.approx(float(value), rel=1e-4), part


def test_sites_outside_the_rows_are_told_too():
    """The KL of a global site is its share of the bound's, once per data set."""
    pair = bayesian.small()
    x = torch.randn(12, bayesian.D, generator=torch.Generator().manual_seed(0)).double()
    table = data.Table("rows", {"x": x})
    run = fit(pair, table, objective=inference.EnumeratedELBO(), batch_size=4)
    made_of = [name for name in list(run.history)[4:] if not is_addend(name)]
    assert "kl(global sites)" in made_of and len(made_of) >= 2
    total = np.sum([run.history[name] for name in made_of], axis=0)
    np.testing.assert_allclose(total, run.history["bound"], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "addend"),
    [
        ("bound", True), ("extra_kl", True), ("penalty(a.b)", True), ("weighted_bound", True),
        ("reconstruction", False), ("kl(z)", False), ("critic.bound", False),
        ("critic.kl(z)", False), ("kl(z.a)", False), ("klx(z)", True),
    ],
)  # fmt: skip
def test_addends_are_told_by_their_names(name, addend):
    assert is_addend(name) == addend


def test_stages_without_a_part_have_nan_there(digits):
    pair = zoo.build("m1m2", digits, hidden=(8,), hidden_top=(4,), code=3, dead=0.0, latent=2)
    run = fit(pair, digits)
    stage = np.array(run.history["stage"])
    assert set(stage) == {0, 1}
    for name in list(run.history)[4:]:
        lacks = np.isnan(run.history[name])
        if name in ("bound", "reconstruction"):
            assert not lacks.any(), name
        else:
            assert np.array_equal(lacks, stage == (1 if name == "kl(z)" else 0)), name
    assert len(run.history) > 5


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_an_interrupted_curve_goes_on_with_the_same_parts(digits, tmp_path, stop):
    options = {"objective": m2(digits).objective(BOUND), "seed": 3}
    whole = fit(m2(digits), digits, **options)
    seen = []

    def interrupt(run, step):
        seen.append(step)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(m2(digits), digits, out=tmp_path / "run", callbacks=(interrupt,), **options)
    run = fit(m2(digits), digits, out=tmp_path / "run", resume=True, **options)
    same(curves(run), curves(whole))
    loaded = inference.load(tmp_path / "run")
    description = loaded.description
    same(loaded.history, run.history)
    assert description["stages"][0]["parts"] == ["bound", "distillation", "classification(y)"]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_that_is_kept_between_two_points_goes_on_to_the_bit(count, dtype):
    values = torch.rand(2 * count, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    straight, kept = State(), State()
    for place, value in enumerate(values):
        straight.add(float(value.sum()), ("a", "b"), value)
        if place == count:
            kept = State.load({**kept.save(), "best": {}, "sides": []}, 1)
        kept.add(float(value.sum()), ("a", "b"), value)
    assert straight.mean() == kept.mean()


def older(state):
    """As the version before wrote it."""
    del state["parts"]
    state["history"] = {n: state["history"][n] for n in ("step", "stage", "loss", "seconds")}


@pytest.mark.parametrize("count", [0, 2])
def test_a_state_of_the_version_before_loads_and_goes_on(digits, tmp_path, count):
    """Points before it have no parts; nor has the one whose steps were begun without."""
    out = tmp_path / "run"
    whole = fit(m2(digits), digits, out=out, epochs=2)

    def change(state):
        older(state)
        state["count"], state["sum"] = count, count * 40.0

    run_files.restate(out, change)
    loaded = inference.load(out)
    assert list(loaded.history) == ["step", "stage", "loss", "seconds"]
    run = fit(m2(digits), digits, out=out, epochs=3, resume=True)
    lacks = np.isnan(run.history["bound"])
    before = len(whole.history["step"])
    assert lacks[:before].all() and not lacks[before + 1 :].any()
    assert bool(lacks[before]) == (count > 0)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("parts", [1.0], "its parts is [1.0], expected numbers by name"),
        ("parts", {"bound": "1"}, "its parts is {'bound': '1'}, expected numbers by name"),
        ("parts", {"a/b": 1.0}, "its parts is {'a/b': 1.0}, expected numbers by name"),
        ("history", {"a/b": 0.0}, "its history has a column 'a/b', expected step, stage, loss, "),
        ("history", {"chain": 0.0}, "its history has a column 'chain', expected step, stage, "),
        ("history", {3: 0.0}, "its history has a column 3, expected step, stage, loss, seconds"),
        ("history", {"bound": "x"}, "its history is no table of the numbers step, stage, loss, "),
        ("validation", {"bound": 0.0}, "its validation has a column 'bound', expected step, loss"),
    ],
)
def test_parts_that_no_run_wrote_are_refused(digits, tmp_path, key, change, message):
    out = tmp_path / "run"
    fit(m2(digits), digits, out=out, epochs=1)

    def damage(state):
        if key == "parts":
            state["parts"] = change
            return
        points = len(next(iter(state[key].values())))
        state[key] |= {name: [value] * points for name, value in change.items()}

    run_files.restate(out, damage)
    with pytest.raises(inference.RunFolderError) as error:
        fit(m2(digits), digits, out=out, resume=True, epochs=2)
    assert message in str(error.value)


def test_several_processes_record_the_parts_of_one(digits, tmp_path):
    def train():
        pair = m2(digits)
        run = fit(pair, digits, objective=pair.objective(BOUND), seed=3)
        return {name: torch.tensor(values) for name, values in curves(run).items()}

    expected = train()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert list(outcome.value) == list(expected)
        for name, values in expected.items():
            torch.testing.assert_close(outcome.value[name], values, rtol=1e-4, atol=1e-5)


def test_a_name_that_no_curve_can_hold_is_refused_before_any_work(digits):
    class Named(inference.EnumeratedELBO):
        part_names = ("stage",)

    class Path(Objective):
        formula, part_names = "-", ("a/b",)

    for objective, words in (
        (Named(), "part 'stage', which is a column of every training curve"),
        (inference.EnumeratedELBO() + Path(), "part 'a/b', which is a path to HDF5"),
    ):
        with pytest.raises(ValueError, match="stage 'fit' has an objective with a ") as error:
            fit(m2(digits), digits, objective=objective)
        assert words in str(error.value)


def test_the_exported_curve_has_the_parts_of_all_chains(digits, tmp_path):
    """Chains of which one was fitted by a version without parts have NaN there."""
    runs = [fit(m2(digits, seed), digits, seed=seed, objective=BOUND) for seed in (0, 1)]
    older_one = inference.Run(
        runs[1].pair, "older", 1, {n: runs[1].history[n] for n in list(runs[1].history)[:4]}
    )
    for others, path in (([runs[1]], tmp_path / "a.nc"), ([older_one], None)):
        idata = runs[0].posterior(digits.test, restarts=others, draws=3, prior_draws=0, path=path)
        group = groups_of(idata)["training"]
        assert {"loss", "bound", "distillation"} <= set(group.data_vars)
        for name in ("loss", "bound", "distillation"):
            found = group[name].transpose("chain", "step").values
            for chain, run in enumerate((runs[0], *others)):
                expected = run.history.get(name, [math.nan] * len(run.history["step"]))
                np.testing.assert_array_equal(found[chain], expected)
