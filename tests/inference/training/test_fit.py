"""Training: stages, frozen parameters, early stop, guards, and runs that resume exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from copy import deepcopy

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import Stage, Training
from ppl_models.inference.objectives.stage import with_training

SMALL = {"hidden": (8,), "latent": 2}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def m2(digits, **settings):
    return zoo.build("m2", digits, **{**SMALL, **settings})


def fit(pair, rows, **options):
    return inference.fit(pair, rows, progress=False, **{"epochs": 2, "batch_size": 50, **options})


def same(a, b):
    return all(torch.equal(x, b[n]) for n, x in a.items())


def test_the_global_random_state_is_left_alone_and_a_seed_decides_all(digits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = m2(digits), m2(digits), m2(digits)
    fit(one, digits, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    fit(two, digits, seed=1)
    fit(other, digits, seed=2)
    assert same(one.state_dict(), two.state_dict())
    assert not same(one.state_dict(), other.state_dict())


def test_the_first_step_is_adam_on_the_loss_per_row(digits):
    """One step by hand: both kinds of rows, one gradient, the weight prior's w / N."""
    pair, hand = m2(digits), m2(digits)
    table = digits.train
    run = fit(pair, table, epochs=1, batch_size=200, weight_prior=3.0)
    assert run.history["step"] == [1]
    batches = data.Stream(table, 200).step(0)
    assert [b.count for b in batches] == [30, 170]
    torch.manual_seed(0)
    loss = hand.objective().differentiable_loss(hand.model, hand.guide, batches) / 200
    loss.backward()
    adam = torch.optim.Adam(hand.parameters(), 1e-3, weight_decay=3.0 / 200)
    adam.step()
    for (name, a), b in zip(pair.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert run.history["loss"] == pytest.approx([float(loss.detach())], rel=1e-5)


def test_an_objective_in_place_of_the_papers(digits):
    pair = m2(digits)
    run = fit(pair, digits, objective=inference.IWELBO(3))
    assert run.objective == str(inference.IWELBO(3))
    run = fit(m2(digits), digits, objective=pair.objective(inference.IWELBO(3)))
    assert run.objective.startswith("log sum_y 1/3") and "N_labelled" in run.objective


def test_schedules_see_the_progress(digits):
    seen = []

    class Spy(inference.EnumeratedELBO):
        def rows(self, run):
            seen.append(self.progress)
            return super().rows(run)

    fit(m2(digits), digits.train.only("x"), objective=Spy(), epochs=2)
    assert seen == [i / 8 for i in range(8)]


def test_m1_trains_its_stages_apart(digits):
    pair = zoo.build("m1", digits, hidden=(8,), latent=2, classifier=(4,))
    names = dict(pair.named_parameters())
    start = {n: p.detach().clone() for n, p in names.items()}
    vae, classifier = pair.stages()
    fit(pair, digits, stages=(vae,))
    for name, p in names.items():
        assert torch.equal(p, start[name]) == name.startswith("guide.factors.y"), name
    middle = {n: p.detach().clone() for n, p in names.items()}
    fit(pair, digits, stages=(classifier,))
    for name, p in names.items():
        assert torch.equal(p, middle[name]) != name.startswith("guide.factors.y"), name
    assert all(p.requires_grad for p in pair.parameters())


def test_m1m2_leaves_dead_codes_at_their_prior(digits):
    pair = zoo.build("m1m2", digits, hidden=(8,), code=3, latent=2, hidden_top=(4,))
    _, m2_stage = pair.stages()
    with torch.no_grad():  # the second code's mean does not depend on x: it is dead
        pair.guide.factors["z1"].net.rest[-1].weight[1].zero_()
        pair.guide.factors["z1"].net.rest[-1].weight[0].mul_(30)
        pair.guide.factors["z1"].net.rest[-1].weight[2].mul_(30)
    fit(pair, digits, stages=(m2_stage,))
    assert pair.active.tolist() == [1, 0, 1]
    batch = pair.encode(next(digits.train.batches()))
    assert not batch["z1"][:, 1].any()
    for name in ("y", "z2"):
        assert not pair.guide.factors[name].net.first.weights["z1"][:, 1].any()
    trace = zoo.Batch({}, torch.arange(4000))
    import pyro

    z1 = pyro.poutine.trace(pair.model).get_trace(trace).nodes["z1"]["fn"].base_dist
    assert not z1.loc[:, 1].any() and bool((z1.scale[:, 1] == 1).all())


def test_frozen_parameters_stay(digits):
    pair = m2(digits)
    start = {n: p.detach().clone() for n, p in pair.named_parameters()}
    fit(pair, digits, freeze=("decoder", "guide.factors.y"))
    for name, p in pair.named_parameters():
        assert torch.equal(p, start[name]) != name.startswith("guide.factors.z"), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_the_same_steps(digits):
    """Analytic on both: with frozen noise the classifier's steps agree to float tolerance."""
    runs = [
        fit(m2(digits), digits.train.where_observed("y"), inference.Classification("y"), device=d)
        for d in ("cpu", "cuda")
    ]
    assert runs[0].history["loss"] == pytest.approx(runs[1].history["loss"], rel=1e-4)
    fit(m2(digits), digits, device="cuda")  # enumerated, labelled and unlabelled rows


def test_m1m2_shares_its_autoencoder_without_two_names(digits):
    pair = zoo.build("m1m2", digits, hidden=(8,), code=3, latent=2, hidden_top=(4,))
    assert len(pair.state_dict()) == len({v.data_ptr() for v in pair.state_dict().values()})
    ids = {id(p) for p in pair.parameters()}
    assert all(id(p) in ids for p in pair.m1.parameters())
    copy = deepcopy(pair)
    assert copy.m1.decoder is copy.decoder is not pair.decoder


def test_m1_is_warmed_up_where_that_is_asked_for():
    kept, grown = (zoo.build("m1m2", warm_up=share).stages()[0].objective for share in (0.0, 0.5))
    assert str(kept) == str(zoo.build("vae").objective())
    assert grown.beta == inference.Anneal(0.0, 1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="warm_up is -1"):
        zoo.build("m1m2", warm_up=-1.0)


@pytest.mark.training
def test_early_stop_keeps_the_best_weights(digits):
    pair = m2(digits)
    run = fit(pair, digits, epochs=200, learning_rate=0.3, patience=3)
    losses = run.validation["loss"]
    assert len(losses) < 200 and losses.index(min(losses)) == len(losses) - 4
    # The kept weights have the best loss: measured again with the same draws.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        total = sum(
            float(pair.objective().per_datum(pair.model, pair.guide, b).sum().detach())
            for b in digits.validation.without("y").batches(limit=1000)
        )
    assert total / 50 == pytest.approx(min(losses), rel=1e-4)


def test_callbacks_and_curve(digits):
    steps = []
    run = fit(
        m2(digits), digits, callbacks=(lambda r, s: steps.append((s, r.history["loss"][-1])),)
    )
    assert [s for s, _ in steps] == run.history["step"] == list(range(1, 11))
    assert [v for _, v in steps] == run.history["loss"]


# ---- guards ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.25])
def test_data_outside_the_support_are_refused_before_training(bad):
    x = torch.rand(40, 4)
    row = int(data.from_arrays(x=x.numpy(), y=[0, 1] * 20).train.numbers[3])
    x[row, 2] = bad

    def train():
        d = data.from_arrays(x=x.numpy(), y=[0, 1] * 20)
        fit(zoo.build("m2", d, **SMALL), d)

    with pytest.raises(ValueError, match=rf"'x'.*row {row}.*column 2"):
        train()


def test_sizes_that_do_not_fit_are_refused(digits):
    with pytest.raises(ValueError, match=r"'x'.*\(64,\).*\(784,\)"):
        fit(zoo.build("m2", **SMALL), digits)
    with pytest.raises(ValueError, match="lacks the site 'x'"):
        fit(m2(digits), digits.train.only("y"))
    with pytest.raises(ValueError, match="freezes 'decodr'"):
        fit(m2(digits), digits, stages=(Stage(inference.EnumeratedELBO(), freeze=("decodr",)),))
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        fit(m2(digits), digits, epoch=3)
    with pytest.raises(ValueError, match="2 values, expected one or 1"):
        fit(m2(digits), digits, epochs=(1, 2))
    with pytest.raises(ValueError, match="learning_rate is -1"):
        fit(m2(digits), digits, learning_rate=-1)


def test_a_loss_that_is_not_finite_names_site_and_row(digits):
    pair = m2(digits)

    class Poison(inference.EnumeratedELBO):
        def rows(self, run):
            if run.batch.rows.eq(target).any():
                place = int(run.batch.rows.eq(target).nonzero()[0])
                run.batch["x"][place, 3] = float("nan")
            return super().rows(run)

    target = int(digits.train.numbers[40])
    with pytest.raises(
        inference.NotFinite, match=rf"site 'z' is nan at row {target}|site 'y'.*{target}"
    ):
        fit(pair, digits.train.only("x"), objective=Poison(), epochs=3)


# ---- resume ------------------------------------------------------------------------------


def curve(history):
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("paper", ["m2", "m1m2"])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_an_interrupted_run_resumes_bit_for_bit(digits, tmp_path, paper, stop):
    def build():
        small = SMALL if paper == "m2" else {**SMALL, "hidden_top": (4,), "code": 3, "dead": 0.0}
        return zoo.build(paper, digits, **small)

    whole = build()
    reference = fit(whole, digits, epochs=3, seed=3)
    part, seen = build(), []

    def interrupt(run, step):
        seen.append(step)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="interrupted at step"):
        fit(part, digits, epochs=3, seed=3, out=tmp_path / "run", callbacks=(interrupt,))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    again = build()
    run = fit(again, digits, epochs=3, seed=3, out=tmp_path / "run", resume=True)
    assert same(whole.state_dict(), again.state_dict())
    assert curve(run.history) == curve(reference.history)
    loaded = inference.load(tmp_path / "run")
    description = loaded.description
    assert description["status"] == "finished"
    assert same(whole.state_dict(), loaded.pair.state_dict())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["run.json", "state.pt"]


@pytest.mark.parametrize("at_the_end", [False, True])
def test_an_early_stopping_run_resumes_at_the_end_of_an_epoch(tmp_path, at_the_end):
    """The look at the validation rows that is due there is neither lost nor repeated."""
    rows = data.load("digits", labelled=50, seed=0)
    options = {"epochs": 30, "batch_size": 600, "learning_rate": 0.5, "patience": 2}

    def run(out, resume=False, callbacks=()):
        torch.manual_seed(0)
        pair = m2(rows)
        return inference.fit(
            pair, rows, out=tmp_path / out, resume=resume, callbacks=callbacks,
            progress=False, device="cpu", **options,
        )  # fmt: skip

    whole = run("whole")
    last = whole.history["step"][-1]
    assert whole.history["step"][1] == 2 and len(whole.validation["loss"]) < 30
    stop = last if at_the_end else 6
    callback = lambda run, step: step == stop and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run("part", callbacks=(callback,))
    rest = run("part", resume=True)
    assert rest.validation == whole.validation and rest.history["loss"] == whole.history["loss"]
    for a, b in zip(whole.pair.parameters(), rest.pair.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_folder_of_another_run_is_refused(digits, tmp_path):
    out = tmp_path / "run"
    fit(m2(digits), digits, out=out)
    with pytest.raises(inference.RunFolderError, match="holds a run of m2"):
        fit(m2(digits), digits, out=out)
    with pytest.raises(inference.RunFolderError, match="config"):
        fit(m2(digits, latent=3), digits, out=out, resume=True)
    with pytest.raises(inference.RunFolderError, match="seed"):
        fit(m2(digits), digits, out=out, resume=True, seed=9)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(inference.RunFolderError, match="is no run"):
        fit(m2(digits), digits, out=tmp_path / "other")


class Own(inference.EnumeratedELBO):
    """Keeps its option under another name, and prints nothing of it."""

    def __init__(self, secret: float = 1.0) -> None:
        super().__init__()
        self._hidden = secret

    def __repr__(self) -> str:
        return "Own()"


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (inference.ELBO(), inference.ELBO(beta=4.0), "objective.beta is 1, not 4"),
        (inference.EnumeratedELBO(), inference.EnumeratedELBO(beta=4.0), "beta is 1, not 4"),
        (inference.EnumeratedELBO(), inference.EnumeratedELBO(free_bits=0.5),
         "free_bits is 0, not 0.5"),
        (inference.EnumeratedELBO(), inference.EnumeratedELBO(grad="stl"),
         "grad is plain, not stl"),
        (inference.IWELBO(2), inference.IWELBO(2, distil=0.5), "distil is 1, not 0.5"),
        (inference.SelfNormalisedELBO(2), inference.SelfNormalisedELBO(2, "jensen"),
         "logq is lme, not jensen"),
        (inference.ELBO(), inference.IWELBO(), "objective is ELBO, not IWELBO"),
        (inference.ELBO() + 2 * inference.Emphasis("y", 2),
         inference.ELBO() + 3 * inference.Emphasis("y", 2),
         r"objective.parts\[1\]\[0\] is 2, not 3"),
        (Own(1), Own(2), "secret is 1, not 2"),
    ],
)  # fmt: skip
def test_a_run_with_another_option_is_refused(digits, tmp_path, one, other, words):
    out, pair = tmp_path / "run", m2(digits)
    table = digits.train.where_observed("y")
    fit(pair, table, objective=one, out=out, epochs=1)
    with pytest.raises(inference.RunFolderError, match=words) as caught:
        fit(pair, table, objective=other, out=out, epochs=1, resume=True)
    assert "its stages.fit.objective" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    fit(pair, table, objective=one, out=out, epochs=1, resume=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.1}, "players.critic.learning_rate is None, not 0.1"),
        ({"objective": inference.EnumeratedELBO(beta=2.0)}, "critic.objective.beta is 1, not 2"),
        ({"steps": 2}, "critic.steps is 1, not 2"),
    ],
)
def test_a_run_with_another_player_is_refused(digits, tmp_path, changed, words):
    def train(resume, **options):
        pair = m2(digits)
        given = {"objective": inference.EnumeratedELBO(), "parameters": ("decoder",), **options}
        stage = Stage(inference.EnumeratedELBO(), players=(inference.Player("critic", **given),))
        fit(pair, digits, stages=(stage,), out=tmp_path / "run", epochs=1, resume=resume)

    train(False)
    with pytest.raises(inference.RunFolderError, match=words):
        train(True, **changed)
    train(True)


def test_a_run_with_other_frozen_parts_is_refused(digits, tmp_path):
    fit(m2(digits), digits, out=tmp_path / "run", epochs=1)
    with pytest.raises(inference.RunFolderError, match=r"freeze is \[\], not \[decoder\]"):
        fit(m2(digits), digits, out=tmp_path / "run", epochs=1, freeze=("decoder",), resume=True)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_damaged_files_are_one_line_errors(digits, tmp_path, share):
    out = tmp_path / "run"
    fit(m2(digits), digits, out=out)
    for name in ("state.pt", "run.json"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(inference.RunFolderError, match=f"{name}.*damaged") as error:
            inference.load(out)
        assert "\n" not in str(error.value)
        (out / name).write_bytes(whole)
    inference.load(out)


def test_weights_are_never_unpickled_as_code(digits, tmp_path):
    out = tmp_path / "run"
    fit(m2(digits), digits, out=out)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"model": Evil()}, out / "state.pt")
    with pytest.raises(inference.RunFolderError, match="damaged"):
        inference.load(out)
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_leaves_the_old_state(digits, tmp_path, monkeypatch):
    from pathlib import Path

    out = tmp_path / "run"
    fit(m2(digits), digits, out=out)
    before = (out / "state.pt").read_bytes()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot write .*state.pt: No space left"):
        fit(m2(digits), digits, out=out, resume=True)
    assert (out / "state.pt").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["run.json", "state.pt"]


def test_training_options_per_stage():
    stages = (Stage(inference.ELBO(), name="a"), Stage(inference.ELBO(), name="b"))
    changed = with_training(stages, {"epochs": (3, 4), "learning_rate": 0.1})
    assert [s.training for s in changed] == [
        Training(epochs=3, learning_rate=0.1),
        Training(epochs=4, learning_rate=0.1),
    ]
    assert dataclasses.replace(Training(), epochs=1).epochs == 1
