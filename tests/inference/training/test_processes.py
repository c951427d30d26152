"""Data-parallel training: the curve of one process, and an end that all processes share."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import torch
from torch import nn
from worlds.processes import together

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import Objective, Player, Stage, Training
from ppl_models.inference.training import processes as distributed, run_folder

SMALL = {"hidden": (8,), "latent": 2}
STACK = {**SMALL, "hidden_top": (4,), "code": 3, "dead": 0.0}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def build(digits, paper="m2", **settings):
    return zoo.build(paper, digits, **{**(STACK if paper == "m1m2" else SMALL), **settings})


def fit(pair, rows, **options):
    options = {"epochs": 2, "batch_size": 50, "progress": False, "device": "cpu", **options}
    return inference.fit(pair, rows, **options)


def result(pair, run):
    return {
        "model": dict(pair.state_dict()),
        "loss": run.history["loss"],
        "validation": run.validation["loss"],
    }


def check_equal(outcomes, expected):
    """All processes hold the same bits; they are the one process's up to rounding."""
    for outcome in outcomes:
        assert outcome.code == 0 and not outcome.error, outcome
        for name, value in outcomes[0].value["model"].items():
            assert torch.equal(outcome.value["model"][name], value), name
        assert outcome.value["loss"] == outcomes[0].value["loss"]
    found = outcomes[0].value
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-5)
    for name, value in expected["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-3, atol=1e-4)


def compare(count, folder, train):
    expected = train()  # first: the forks then have all that training imports
    check_equal(together(count, folder, lambda rank: train()), expected)


# ---- the same curve ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "count", "options"),
    [
        ("m2", 2, {}),
        ("m2", 3, {"batch_size": 7, "epochs": 1}),  # 1 labelled row a step, 6 others
        ("m2", 2, {"epochs": 30, "batch_size": 100, "learning_rate": 0.3, "patience": 2}),
        ("m1m2", 2, {}),  # two stages, a start, and rows prepared at each step
        ("m1", 2, {}),
    ],
)
def test_the_curve_is_that_of_one_process(digits, tmp_path, paper, count, options):
    compare(
        count,
        tmp_path,
        lambda: result(pair := build(digits, paper), fit(pair, digits, seed=3, **options)),
    )


class Wasserstein(Objective):
    """A critic that tells the code of a row from nothing: a game with a network outside."""

    formula = "critic(z)"

    def __init__(self, critic, sign):
        super().__init__()
        self.critic, self.sign = critic, sign

    def rows(self, run):
        z = run.weights(enumerate_labels=False).guide.nodes["z"]["value"]
        return self.sign * self.critic(z).square().mean(-1).reshape(-1)


@pytest.mark.parametrize("simultaneous", [False, True])
def test_a_game_with_a_network_outside_the_pair(digits, tmp_path, simultaneous):
    def train():
        pair = build(digits, "vae")
        with torch.random.fork_rng():
            torch.manual_seed(int(os.environ.get("RANK", 0)))  # the first process's counts
            critic = nn.Linear(2, 3)
        player = Player("critic", Wasserstein(critic, -1), critic, steps=1)
        stage = Stage(
            pair.objective() + Wasserstein(critic, 1), players=(player,), sites=("x",),
            simultaneous=simultaneous, training=Training(epochs=3, batch_size=50),
        )  # fmt: skip
        run = inference.fit(pair, digits, stages=(stage,), progress=False, device="cpu")
        pair.critic = critic
        return result(pair, run)

    compare(2, tmp_path, train)


# ---- an end that all share ---------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_explained_by_all(digits, tmp_path):
    class Poison(inference.EnumeratedELBO):
        def rows(self, run):
            if run.batch.rows.eq(target).any():  # in one process only
                run.batch["x"][int(run.batch.rows.eq(target).nonzero()[0]), 3] = float("nan")
            return super().rows(run)

    target = int(digits.train.numbers[40])
    outcomes = together(
        2,
        tmp_path,
        lambda rank: fit(build(digits), digits.train.only("x"), objective=Poison(), epochs=3),
    )
    assert [o.kind for o in outcomes] == ["NotFinite"] * 2
    assert outcomes[0].error == outcomes[1].error
    assert f" at row {target}" in outcomes[0].error


def stop_at(step, rank, act):
    """The bound, until ``act()`` in one process in the middle of a step."""

    bound, seen = inference.EnumeratedELBO(), []

    def rows(run):
        seen.append(run)
        if len(seen) == 2 * step and rank == int(os.environ.get("RANK", 0)):
            act()
        return inference.EnumeratedELBO.rows(bound, run)

    bound.rows = rows  # as far as the folder knows, the same
    return bound


@pytest.mark.parametrize("dies", [0, 1])
def test_a_killed_process_ends_the_run_everywhere(digits, tmp_path, dies):
    out = tmp_path / "run"
    reference = build(digits)
    fit(reference, digits, objective=inference.EnumeratedELBO(), seed=3)

    def train(objective, resume=False):
        pair = build(digits)
        options = {"seed": 3, "out": out, "resume": resume, "checkpoint_seconds": 0}
        return result(pair, fit(pair, digits, objective=objective, **options))

    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    outcomes = together(2, tmp_path, lambda rank: train(stop_at(5, dies, kill)))
    dead, other = outcomes[dies], outcomes[1 - dies]
    assert dead.code == -signal.SIGKILL
    assert (other.kind, other.code) == ("LostProcess", 0) and other.seconds < 30
    assert f"process {1 - dies} of 2 stopped: another one has died" in other.error
    assert "\n" not in other.error
    assert run_folder.read_state(out)["step"] == 4
    # It goes on from there, in as many processes as one likes.
    outcomes = together(2, tmp_path, lambda rank: train(inference.EnumeratedELBO(), resume=True))
    check_equal(outcomes, {**outcomes[0].value, "model": reference.state_dict()})


@pytest.mark.parametrize("told", [0, 1])
def test_an_interrupt_of_one_saves_and_ends_all(digits, tmp_path, told):
    out = tmp_path / "run"

    def train(objective=None, count=2, resume=False):
        pair = build(digits)
        options = {"seed": 3, "out": out, "resume": resume, "objective": objective}
        return result(pair, fit(pair, digits, **options))

    tell = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    outcomes = together(2, tmp_path, lambda rank: train(stop_at(3, told, tell)))
    assert [o.kind for o in outcomes] == ["KeyboardInterrupt"] * 2
    assert all("interrupted at step 3 of stage 1" in o.error for o in outcomes)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    resumed = train(inference.EnumeratedELBO(), resume=True)  # alone
    reference = build(digits)
    run = fit(reference, digits, objective=inference.EnumeratedELBO(), seed=3)
    assert resumed["loss"] == pytest.approx(run.history["loss"], rel=1e-5)


def test_a_process_that_fails_alone_ends_the_others(digits, tmp_path):
    def fail():
        raise ArithmeticError("out of luck")

    outcomes = together(
        2, tmp_path, lambda rank: fit(build(digits), digits, objective=stop_at(2, 1, fail))
    )
    assert [o.kind for o in outcomes] == ["LostProcess", "ArithmeticError"]


# ---- refusals ----------------------------------------------------------------------------


def test_processes_must_be_given_the_same(digits, tmp_path):
    outcomes = together(2, tmp_path, lambda rank: fit(build(digits), digits, seed=rank))
    for outcome in outcomes:
        assert outcome.kind == "ValueError" and "not given the same" in outcome.error


def test_a_folder_that_is_taken_is_refused_by_all(digits, tmp_path):
    out = tmp_path / "run"
    fit(build(digits), digits, out=out)
    outcomes = together(2, tmp_path, lambda rank: fit(build(digits), digits, out=out))
    assert [o.kind for o in outcomes] == ["RunFolderError", "ValueError"]
    assert outcomes[0].error == outcomes[1].error


def test_networks_that_look_at_other_rows_are_refused(digits):
    pair = build(digits)
    pair.decoder.rest.append(nn.BatchNorm1d(8))
    distributed.check_modules(pair, distributed.Processes())
    with pytest.raises(ValueError, match=r"decoder\.rest\.\d is a BatchNorm1d"):
        distributed.check_modules(pair, distributed.Processes(0, 2))


def test_more_processes_than_gpus(monkeypatch):
    for name, value in zip(
        distributed.LAUNCHED, ("0", "2", "0", "2", "127.0.0.1", "1"), strict=True
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ValueError, match="2 processes share this machine's 1 GPUs"),
        distributed.group("cuda"),
    ):
        pass


def test_groups_one_after_another_and_one_inside_another(tmp_path):
    def work(rank):
        found = []
        for _ in range(2):
            with distributed.group("cpu") as outer, distributed.group("cpu") as inner:
                found.append(outer.any(rank == 1) and not inner.any(False))
            assert not torch.distributed.is_initialized()
        return found

    assert [o.value for o in together(2, tmp_path, work)] == [[True, True]] * 2


def test_alone_nothing_is_started(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    began = time.monotonic()
    with distributed.group() as processes:
        assert (processes.first, processes.count) == (True, 1)
        assert processes.from_first(lambda: 3) == 3
        assert processes.any(True) and not processes.any(False)
        assert processes.stopping(7, True)
    assert time.monotonic() - began < 1 and not torch.distributed.is_initialized()


def test_what_the_processes_tell_each_other(tmp_path):
    def work(rank):
        with distributed.group("cpu") as processes:
            a, b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2).double())
            unused = nn.Parameter(torch.zeros(4))
            a.grad = torch.full((2, 3), 1.0 + rank)
            b.grad = torch.full((2,), 0.1 * (1 + rank), dtype=torch.float64)
            loss, parts = processes.sum_gradients(
                torch.tensor(2.0**rank), [a, unused, b], rank == 1, torch.tensor([0.5, rank])
            )
            held = torch.full((3,), float(rank))
            processes.alike([held])
            return {
                "loss": float(loss),
                "parts": parts.tolist(),
                "a": a.grad,
                "b": b.grad,
                "unused": unused.grad is None,
                "stop": processes.stopping(1, False),
                "notes": processes.notes(f"I am {rank} ü" + "." * 600),
                "first": processes.from_first(lambda: {"t": torch.ones(2), "rank": rank}),
                "held": held,
            }

    for outcome in together(2, tmp_path, work):
        found = outcome.value
        assert found["loss"] == 3 and found["unused"] and found["stop"]
        assert found["parts"] == [1.0, 1.0]
        assert torch.equal(found["a"], torch.full((2, 3), 3.0))
        assert found["b"].tolist() == pytest.approx([0.3, 0.3], rel=1e-15)
        assert [n[:8] for n in found["notes"]] == ["I am 0 ü", "I am 1 ü"]
        assert found["first"]["rank"] == 0 and torch.equal(found["held"], torch.zeros(3))
