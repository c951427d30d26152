"""Every optimiser of torch.optim, by name: its steps are torch's, and so is what is resumed."""

from __future__ import annotations

import copy
import inspect
import json

import pytest
import torch
from torch import nn
from worlds import run_files
from worlds.linear import draw, linear
from worlds.processes import together

from ppl_models import inference
from ppl_models.commands.main import main
from ppl_models.data import Table
from ppl_models.inference import EnumeratedELBO, Player, Stage, Training
from ppl_models.inference.training.optimisers import KINDS, REFUSED, optimiser_of
from ppl_models.inference.training.sides import sides

ROWS, STEPS, RATE = 12, 5, 0.01
OPTIONS = {
    "adam": "adam(amsgrad=True)",
    "sgd": "sgd(momentum=0.9, nesterov=True)",
    "rmsprop": "RMSprop(momentum=0.5, centered=True)",
    "adamw": "AdamW(weight_decay=0.1)",
    "nadam": "nadam(decoupled_weight_decay=True, weight_decay=0.1)",
}
NAMES = sorted(set(KINDS) - set(REFUSED) - {"muon"})  # which takes matrices alone


def rows(dtype, count=ROWS):
    pair = linear(dtype=dtype)
    x, _ = draw(pair, count)
    return Table("linear", {"x": x.to(dtype)})


def fit(pair, table, **options):
    settings = {"steps": STEPS, "batch_size": ROWS, "learning_rate": RATE}
    settings |= {"progress": False, "device": "cpu", **options}
    return inference.fit(pair, table, EnumeratedELBO(), **settings)


def by_hand(pair, table, make, steps=STEPS, clip=0.0, rate=lambda t: RATE):
    """The same steps of a loop over torch's own optimiser."""
    (batch,) = table.batches()
    optimiser = make(list(pair.parameters()))
    pair.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for t in range(steps):
            optimiser.zero_grad()
            (EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch) / ROWS).backward()
            held = [p.grad for p in pair.parameters() if p.grad is not None]
            norm = torch.stack([g.double().square().sum() for g in held]).sum().sqrt()
            if clip:
                factor = min(1.0, float(clip / (norm + 1e-6)))
                for g in held:
                    g.mul_(factor)
            optimiser.param_groups[0]["lr"] = rate(t)
            optimiser.step()


def close(one, other, rtol=0.0):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, msg=name)


def same(one, other):
    close(one, other)


def plain(name, dtype):
    """The optimiser of torch that a text stands for, and its options."""
    text = OPTIONS.get(name, name)
    made = optimiser_of([{"params": [nn.Parameter(torch.zeros(1))]}], Training(optimiser=text), 1)
    given = {
        k: v
        for k, v in made.param_groups[0].items()
        if k in inspect.signature(type(made)).parameters and k != "params"
    }
    return text, lambda parameters: type(made)(parameters, **{**given, "lr": RATE})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torch(name, dtype, tmp_path):
    text, make = plain(name, dtype)
    if name == "adafactor":
        make = lambda own, made=make: made(own)  # noqa: E731
    table, ours, theirs = rows(dtype), linear(dtype=dtype), linear(dtype=dtype)
    fit(ours, table, optimiser=text)
    by_hand(theirs, table, make)
    close(ours, theirs, rtol=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_bit_for_bit(name, tmp_path):
    text, _ = plain(name, torch.float64)
    table, whole, rest = rows(torch.float64), linear(), linear()
    options = {"optimiser": text, "schedule": "step(every=2, factor=0.5)", "warmup": 3}
    fit(whole, table, **options)
    fit(linear(), table, out=tmp_path / "run", **{**options, "steps": 2})
    fit(rest, table, out=tmp_path / "run", resume=True, **options)
    same(rest, whole)


def test_muon_takes_matrices():
    options = Training(optimiser="muon(momentum=0.9)")
    optimiser = optimiser_of([{"params": [nn.Parameter(torch.zeros(2, 3))]}], options, 1)
    assert type(optimiser) is torch.optim.Muon
    with pytest.raises(ValueError, match="optimiser 'muon': Muon only supports 2D parameters"):
        fit(linear(), rows(torch.float64), optimiser="muon")


DAMAGE = {
    "shape": lambda held: held.update({k: v.new_zeros(99) for k, v in held.items() if v.dim()}),
    "name": lambda held: held.update(more=torch.zeros(())),
    "lack": lambda held: held.pop(next(iter(held))),
    "kind": lambda held: held.update({k: v.to(torch.int64) for k, v in held.items()}),
    "value": lambda held: held.update(dict.fromkeys(held, 3)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd",)] + ["sgd"])
def test_a_state_of_another_optimiser_is_refused(name, damage):
    text, _ = plain(name, torch.float64)
    pair = linear()
    (side,) = sides(pair, Stage(EnumeratedELBO(), training=Training(optimiser=text)), ROWS)
    for parameter in side.parameters:
        parameter.grad = torch.ones_like(parameter)
    side.optimiser.step()
    state = copy.deepcopy(side.state())
    side.restore(state)
    place = next(i for i, p in enumerate(side.parameters) if p.dim() == 2)
    DAMAGE[damage](state["optimiser"]["state"][place])
    with pytest.raises(ValueError, match=rf"parameter {place} of 'pair'"):
        side.restore(state)


@pytest.mark.parametrize("place", [99, -1, "0", 1.0])
def test_a_state_of_a_parameter_that_is_none(place):
    (side,) = sides(linear(), Stage(EnumeratedELBO()), ROWS)
    with pytest.raises(ValueError, match="'pair' has no parameter"):
        side.restore({"optimiser": {"state": {place: {}}}, "module": None})


def test_a_folder_of_another_optimiser_s_state(tmp_path):
    table, out = rows(torch.float64), tmp_path / "run"
    fit(linear(), table, out=out, optimiser="sgd(momentum=0.9)")

    def change(state):
        held = state["sides"][0]["optimiser"]["state"]
        held[0]["momentum_buffer"] = torch.zeros(10**6)

    run_files.restate(out, change)
    with pytest.raises(inference.RunFolderError, match=r"state.pt does not fit this run: moment"):
        fit(linear(), table, out=out, optimiser="sgd(momentum=0.9)", steps=9, resume=True)
    with pytest.raises(inference.RunFolderError, match=r"its stages.fit.optimiser is sgd.*, not"):
        fit(linear(), table, out=out, optimiser="sgd(momentum=0.8)", steps=9, resume=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimiser": "adan"}, "unknown optimiser 'adan': did you mean 'adam'?"),
        ({"optimiser": "LBFGS"}, "'LBFGS' cannot train here, it evaluates the loss several"),
        ({"optimiser": "SparseAdam"}, "'SparseAdam' cannot train here, it takes sparse"),
        ({"optimiser": "sgd(momentun=0.9)"}, "option of sgd 'momentun': did you mean 'momentum'"),
        ({"optimiser": "sgd(fused=True)"}, "unknown option of sgd 'fused'"),
        ({"optimiser": "sgd(lr=0.1)"}, "has lr, expected learning_rate of the training"),
        ({"optimiser": "adamw(betas=(0.5, 0.9))"}, "has betas, expected beta1 and beta2"),
        ({"optimiser": "sgd(momentum=-1)"}, r"'sgd\(momentum=-1\)': Invalid momentum value"),
        ({"optimiser": "sgd(nesterov=True)"}, "Nesterov momentum requires"),
        ({"optimiser": "sgd(momentum='a')"}, "optimiser .*: '<' not supported"),
        ({"optimiser": "sgd(0.9)"}, "is not of the form name or name"),
        ({"optimiser": "rprop", "beta1": 0.5}, "'rprop' takes no beta1 and beta2"),
        ({"optimiser": "adamw", "weight_prior": 1}, "'adamw' adds no gradient of it"),
        ({"optimiser": "rprop", "weight_prior": 1}, "'rprop' adds no gradient of it"),
        (
            {"optimiser": "adam(weight_decay=0.1)", "weight_prior": 1},
            "has a weight_decay of its own, expected one of them",
        ),
        ({"clip_norm": -1}, "clip_norm is -1, expected at least 0"),
        ({"steps": 3, "epochs": 2}, "'fit' is given steps=3 and epochs=2, expected one of them"),
    ],
)
def test_options_are_refused_before_any_work(options, words, tmp_path):
    out = tmp_path / "run"
    options = {"progress": False, "out": out, **options}
    with pytest.raises(ValueError, match=words):
        inference.fit(linear(), rows(torch.float64), EnumeratedELBO(), **options)
    assert not out.exists()


@pytest.mark.parametrize("prior", [1.0, 10.0])
@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_a_prior_on_the_weights_adds_its_gradient(prior, name):
    table, ours, theirs = rows(torch.float64), linear(), linear()
    fit(ours, table, optimiser=name, weight_prior=prior)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    by_hand(theirs, table, lambda own: kind[name](own, RATE, weight_decay=prior / ROWS))
    close(ours, theirs, rtol=1e-13)


@pytest.mark.parametrize(
    ("clip", "dtype", "compiled"),
    [
        *((c, d, False) for c in (1e-3, 0.3, 1e6) for d in (torch.float32, torch.float64)),
        pytest.param(0.3, torch.float64, True, marks=pytest.mark.long),
    ],
)
def test_clipping_is_by_the_norm_of_all_gradients(clip, dtype, compiled):
    table, ours, theirs = rows(dtype), linear(dtype=dtype), linear(dtype=dtype)
    options = {"optimiser": "sgd", "clip_norm": clip, "schedule": "cosine", "warmup": 2}
    fit(ours, table, compile=compiled, **options)

    def rate(t):
        factor = (1 + torch.cos(torch.tensor(torch.pi * max(0, t - 2) / (STEPS - 2))).item()) / 2
        return RATE * min(1, (t + 1) / 2) * factor

    by_hand(theirs, table, lambda own: torch.optim.SGD(own, RATE), clip=clip, rate=rate)
    close(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("options", [
    {"clip_norm": 0.2}, {"optimiser": "sgd(momentum=0.9)", "schedule": "cosine", "warmup": 2},
])  # fmt: skip
def test_two_processes_take_the_steps_of_one(tmp_path, options):
    def train():
        pair, table = linear(), rows(torch.float64, 30)
        run = fit(pair, table, steps=7, **options)
        return {"model": dict(pair.state_dict()), "loss": run.history["loss"]}

    expected = train()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome
        assert outcome.value["loss"] == pytest.approx(expected["loss"], rel=1e-12)
        for name, value in expected["model"].items():
            torch.testing.assert_close(outcome.value["model"][name], value, rtol=1e-9, atol=1e-12)


class Critic(inference.Objective):
    formula = "c"

    def __init__(self, net):
        super().__init__()
        self.net = net

    def rows(self, run):
        return (self.net(run.batch["x"]) - 1).square().sum(-1)


@pytest.mark.parametrize("simultaneous", [False, True])
def test_each_side_of_a_game_has_its_own_norm_and_rate(simultaneous):
    table, net = rows(torch.float64), nn.Linear(3, 2).double()
    start = [p.detach().clone() for p in net.parameters()]
    player = Player("critic", Critic(net), net, learning_rate=0.5, weights="given")
    training = Training(steps=1, optimiser="sgd", clip_norm=0.1, warmup=2, batch_size=ROWS)
    stage = Stage(
        EnumeratedELBO(), players=(player,), training=training, simultaneous=simultaneous
    )
    inference.fit(linear(), table, stages=(stage,), progress=False, device="cpu")
    moved = torch.cat(
        [(p.detach() - q).flatten() for p, q in zip(net.parameters(), start, strict=True)]
    )
    assert float(moved.norm()) == pytest.approx(0.5 * 0.1 / 2, rel=1e-5)  # half-way warmed up


def test_steps_in_place_of_epochs():
    paper = Stage(EnumeratedELBO(), training=Training(steps=4))
    (by_epochs,) = inference.objectives.stage.with_training((paper,), {"epochs": 3})
    assert by_epochs.training.length == ("epochs", 3)
    (by_steps,) = inference.objectives.stage.with_training((paper,), {"steps": 9})
    assert by_steps.training.length == ("steps", 9)
    plan = inference.objectives.stage.with_training((paper, paper), {"steps": (0, 9), "epochs": 3})
    assert [stage.training.length for stage in plan] == [("epochs", 3), ("steps", 9)]
    run = fit(linear(), rows(torch.float64, 50), steps=7)
    assert run.history["step"][-1] == run.planned == 7


@pytest.mark.parametrize("options", [{}, {"schedule": "step(every=2)"}, {"warmup": 3}])
def test_a_run_of_more_steps_goes_on_from_the_fewer(tmp_path, options):
    table, whole, rest = rows(torch.float64, 50), linear(), linear()
    objective = EnumeratedELBO(beta=inference.Anneal(0, 1, steps=6))
    settings = {"batch_size": 8, "progress": False, "device": "cpu", **options}
    inference.fit(whole, table, objective, steps=9, **settings)
    for pair, steps in ((linear(), 4), (rest, 9)):
        inference.fit(
            pair, table, objective, steps=steps, out=tmp_path / "r", resume=True, **settings
        )
    same(rest, whole)
    told = json.loads((tmp_path / "r" / "run.json").read_text())["identity"]["stages"][0]
    assert told["steps"] == 9 and "epochs" not in told
    with pytest.raises(inference.RunFolderError, match=r"its stages.fit.steps is 9, not 8"):
        inference.fit(
            linear(), table, objective, steps=8, out=tmp_path / "r", resume=True, **settings
        )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"schedule": "cosine"}, "learning rate"),
        ({"schedule": "step(at=(2, 0.5))"}, "learning rate"),
        (
            {"stages": (Stage(EnumeratedELBO(), after=lambda p: print(p, end="")),)},
            "change after each step",
        ),
    ],
)
def test_what_changes_with_the_share_is_not_prolonged(tmp_path, options, what):
    stages = options.pop("stages", (Stage(EnumeratedELBO()),))
    settings = {"stages": stages, "batch_size": 8, "progress": False, "device": "cpu", **options}
    table, out = rows(torch.float64, 50), tmp_path / "r"
    inference.fit(linear(), table, steps=4, out=out, **settings)
    with pytest.raises(inference.RunFolderError, match=rf"has 4 steps, not 6, .* its {what} chan"):
        inference.fit(linear(), table, steps=6, out=out, resume=True, **settings)
    options["stages"] = stages


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_numbers_that_change_by_steps_are_those_of_the_formula(compiled, shape):
    table, ours, theirs = rows(torch.float64), linear(), linear()
    anneal = inference.Anneal(0.2, 1.5, steps=4, shape=shape)
    settings = {"batch_size": ROWS, "progress": False, "device": "cpu", "learning_rate": RATE}
    inference.fit(ours, table, EnumeratedELBO(beta=anneal), steps=7, compile=compiled, **settings)
    losses = []
    (batch,) = table.batches()
    optimiser = torch.optim.Adam(theirs.parameters(), RATE, fused=True)
    theirs.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for t in range(7):
            optimiser.zero_grad()
            bound = EnumeratedELBO(beta=anneal(inference.Progress(t / 7, t)))
            loss = bound.differentiable_loss(theirs.model, theirs.guide, batch) / ROWS
            loss.backward()
            losses.append(float(loss.detach()))
            optimiser.step()
    close(ours, theirs, rtol=1e-9)


def test_the_command_line_has_them(tmp_path, capsys):
    out = tmp_path / "run"
    code = main([
        "fit", "vae", "--data", "digits", "--out", str(out), "--steps", "6", "--optimiser",
        "sgd(momentum=0.9)", "--schedule", "cosine(last=0.1)", "--warmup", "2", "--clip-norm", "1",
        "--hidden", "4", "--latent", "2", "--quiet", "--device", "cpu", "--draws", "3",
    ])  # fmt: skip
    told = json.loads((out / "run.json").read_text())
    assert code == 0, capsys.readouterr()
    assert told["planned"] == 6
    assert told["identity"]["stages"][0]["schedule"] == "cosine(last=0.1)"
    code = main(["fit", "vae", "--data", "digits", "--out", str(out), "--optimiser", "sdg"])
    assert code != 0 and "did you mean 'sgd'" in capsys.readouterr().err
