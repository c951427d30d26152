"""What objectives were made with: printed as the call that makes them, and told apart by it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import (
    IWELBO,
    Anneal,
    Classification,
    FreeBits,
    Objective,
    Player,
    Stage,
)
from ppl_models.inference.objectives.by_name import BOUNDS, TERMS, parse_objective
from ppl_models.inference.objectives.options import ADDRESS, identity, text
from ppl_models.inference.objectives.stage import with_training
from ppl_models.inference.training.run_identity import describe_run

# Options of other values, together where one goes with the other; the first is a name.
CHANGED = {
    "ELBO": [{"particles": 2}, {"kl": "analytic"}, {"grad": "stl"}, {"beta": 4.0},
             {"beta": Anneal(0, 1)}, {"beta": {"z": 2.0}}, {"free_bits": 0.5},
             {"free_bits": FreeBits(0.5, over="row")}, {"plate_nesting": 2}],
    "EnumeratedELBO": [{"particles": 2}, {"kl": "analytic"}, {"grad": "stl"}, {"beta": 4.0},
                       {"free_bits": 0.5}, {"plate_nesting": 2}, {"chunk": 3},
                       {"backend": "funsor"}, {"combinations": 9}],
    "IWELBO": [{"particles": 2}, {"lam": 0.5}, {"lam": Anneal(1, 0, 0.6, 0.6)}, {"grad": "dreg"},
               {"distil": 0.5}, {"plate_nesting": 2}, {"backend": "funsor", "particles": 1},
               {"combinations": 9}],
    "TMC": [{"particles": 2}, {"lam": 0.5}, {"distil": 0.5}, {"plate_nesting": 2},
            {"combinations": 9}],
    "Renyi": [{"particles": 2}, {"alpha": 0.1}, {"plate_nesting": 2}],
    "WakeSleep": [{"particles": 2}, {"wake": 0.5}, {"sleep": 0.5}, {"plate_nesting": 2}],
    "SelfNormalisedELBO": [{"particles": 2}, {"logq": "jensen"}, {"alpha": 0.5}, {"gamma": 0.5},
                           {"plate_nesting": 2}],
    "CharacteristicELBO": [{"particles": 64}, {"detach": "code"}, {"alpha": 0.5}, {"gamma": 0.5},
                           {"plate_nesting": 2}],
    "ScoreELBO": [{"particles": 3}, {"baseline": "none"}, {"inside": True},
                  {"enumerate_labels": False}, {"plate_nesting": 2}],
    "RelaxedELBO": [{"particles": 2}, {"temperature": 0.1}, {"hard": True},
                    {"prior": "relaxed"}, {"plate_nesting": 2}],
    "Stratified": [{"particles": 2}, {"grad": "dreg"}, {"site": "c"}, {"plate_nesting": 2}],
    "MutualSupervision": [{"sites": ("a", "b")}, {"particles": 3}, {"classifier": 10.0},
                          {"site": "c"}, {"plate_nesting": 2}],
    "Subsets": [{"bound": inference.IWELBO(2)}, {"sites": ("a", "b")}, {"random": 2}],
    "Balance": [{"site": "t"}, {"weight": 0.5}],
    "BlurredError": [{"site": "t"}, {"shape": (5, 4, 1)}, {"radius": 3}, {"weight": 0.5},
                     {"plate_nesting": 2}],
    "Capacity": [{"site": "t"}, {"gamma": 0.5}, {"capacity": Anneal(0, 25)}, {"over": "row"},
                 {"plate_nesting": 2}],
    "Classification": [{"site": "t"}, {"weight": 0.1234567}, {"classes": (1.0, 2.0)}],
    "CodeCovariance": [{"site": "t"}, {"lambda_od": 0.5}, {"lambda_d": Anneal(0, 8)},
                       {"of": "aggregate"}, {"plate_nesting": 2}],
    "Consistency": [{"bound": inference.IWELBO(2)}, {"site": "t"}, {"weight": Anneal(0, 1)},
                    {"steps": (data.Flip(0.1), data.Affine()), "shape": (4, 4)},
                    {"steps": data.Noise((0.1, 0.2))}],
    "DistanceCorrelation": [{"first": "t"}, {"second": "t"}, {"weight": Anneal(0, 8)},
                            {"plate_nesting": 2}],
    "Emphasis": [{"site": "t"}, {"weight": 0.5}, {"plate_nesting": 2}],
    "Hat": [{"site": "t"}, {"weight": 0.5}, {"margin": 0.5}],
    "HausdorffSupport": [{"site": "t"}, {"weight": 0.5}, {"pairs": 3}, {"points": 100},
                         {"plate_nesting": 2}],
    "Hinge": [{"site": "t"}, {"weight": 0.5}, {"margin": 0.5}],
    "Imputed": [{"bound": inference.IWELBO(2)}, {"site": "t"}, {"weight": 0.5}],
    "LeftOut": [{"bound": inference.ELBO(beta=2.0)}, {"site": "t"}],
    "SupportScale": [{"site": "t"}, {"weight": 0.5}, {"kind": "minimal_support"},
                     {"plate_nesting": 2}],
    "TotalCorrelation": [{"site": "t"}, {"weight": 0.5}, {"estimator": "mws"},
                         {"plate_nesting": 2}],
    "Weighted": [{"bound": inference.ELBO(beta=2.0)}, {"balance": "y"}, {"outside": 0.5}],
    "Penalty": [{"name": "n"}, {"function": np.sum}, {"weight": 0.5},
                {"across_rows": True}, {"plate_nesting": 2}],
}  # fmt: skip
NEEDED = {
    "site": "y", "first": "a", "second": "b", "gamma": 1.0, "capacity": 1.0, "name": "p",
    "sites": ("s", "t"), "lambda_od": 1.0, "lambda_d": 2.0, "steps": data.Dropout(),
    "shape": (4, 5, 1),
    "weight": 2.0, "bound": inference.ELBO(), "function": np.mean,
}  # fmt: skip
KINDS = {cls.__name__: cls for cls in (*BOUNDS.values(), *TERMS.values(), inference.Penalty)}
EVERY = [(name, options) for name, several in CHANGED.items() for options in several]
EVERY_KIND = [(name, options) for name, options in EVERY if name != "Penalty"]


def made(name, /, **options):
    parameters = inspect.signature(KINDS[name]).parameters.values()
    needed = {p.name: NEEDED[p.name] for p in parameters if p.default is p.empty}
    return KINDS[name](**{**needed, **options})


@pytest.fixture(scope="module")
def pair():
    return zoo.build("vae", data_dim=3, latent=1, hidden=(2,))


@pytest.fixture(scope="module")
def table():
    return data.Table("rows", {"x": torch.zeros(4, 3)})


def run_identity(pair, table, objective, /, **stage):
    plan = (Stage(objective, **stage),)
    return json.loads(json.dumps(describe_run(pair, table, plan, 0)["identity"]))


def test_every_option_of_every_objective_is_changed_here():
    assert set(CHANGED) == set(KINDS)
    for name, several in CHANGED.items():
        known = set(inspect.signature(KINDS[name]).parameters)
        assert known == {option for options in several for option in options}, name


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_option_tells_runs_apart(pair, table, name, options):
    one, other = made(name), made(name, **options)
    assert run_identity(pair, table, one) == run_identity(pair, table, made(name))
    assert run_identity(pair, table, one) != run_identity(pair, table, other)
    assert one == made(name) and hash(one) == hash(made(name)) and one != other
    assert repr(one) != repr(other)


@pytest.mark.parametrize(("name", "options"), EVERY_KIND)
def test_what_is_printed_makes_the_same_again(name, options):
    faces = {name: getattr(face, name) for face in (data, inference) for name in face.__all__}
    for objective in (made(name, **options), inference.ELBO() + 0.3 * made(name, **options)):
        assert eval(repr(objective), faces) == objective
        assert parse_objective(repr(objective)) == objective


def test_what_is_printed_is_what_differs():
    assert repr(inference.ELBO()) == "ELBO()"
    assert repr(inference.ELBO(beta=4.0, free_bits=0.5)) == "ELBO(beta=4, free_bits=0.5)"
    bound = inference.ELBO(beta={"z": Anneal(1, 0.5, 0.2)}, free_bits=FreeBits(0.1, per="site"))
    assert repr(bound) == (
        "ELBO(beta={'z': Anneal(1, 0.5, start=0.2)}, free_bits=FreeBits(0.1, per='site'))"
    )
    stop = inference.StopGradient(inference.ELBO(), nn.Tanh(), nn.ReLU(), missing="y")
    nets = ", ".join(f"torch.nn.modules.activation:{name}" for name in ("Tanh", "ReLU"))
    assert repr(stop) == f"StopGradient(ELBO(), {nets}, missing='y')"


def test_an_option_that_is_set_again_counts(pair, table):
    bound, weighted = inference.ELBO(beta=2.0), inference.Weighted(inference.ELBO())
    bound.beta = 4.0
    bound.max_plate_nesting = 2
    weighted.weight = 3.0
    assert bound == inference.ELBO(beta=4.0, plate_nesting=2)
    assert repr(weighted) == "Weighted(ELBO(), outside=3)"
    weighted.bound.beta = 5.0
    assert repr(weighted) == "Weighted(ELBO(beta=5), outside=3)"


class Own(Objective):
    """Keeps nothing under its own name."""

    formula = "nothing"

    def __init__(self, scale, *sites, floor=0.0, **more):
        super().__init__()
        self.scale = None  # found at the first step
        self._k = ([scale], sites, floor + 1, more)


@dataclasses.dataclass(eq=False)
class OwnData(Objective):
    scale: float = 1.0
    sites: tuple = ()
    formula = "nothing"

    def __post_init__(self):
        super().__init__()


class Careless(Own):
    def __repr__(self):
        return f"Careless at {hex(id(self))}"


@pytest.mark.parametrize("kind", [Own, Careless])
def test_an_objective_of_ones_own_needs_no_repr(pair, table, kind):
    every = [
        kind(1), kind(2), kind(1, "a"), kind(1, "b"), kind(1, floor=2), kind(1, other=3),
        kind(1, other=4), kind(torch.ones(2)), kind(torch.zeros(2)), kind(np.ones(2)),
        kind({"a": kind(1)}), kind({"a": kind(2)}), kind([Player("p", kind(1), nn.Tanh())]),
        kind([Player("p", kind(2), nn.Tanh())]),
    ]  # fmt: skip
    told = [json.dumps(run_identity(pair, table, own)) for own in every]
    assert len(set(told)) == len(every)
    assert not any(ADDRESS.search(one) for one in told)
    if kind is Own:
        assert repr(kind(1, "a", floor=2, other=3)) == "Own(1, 'a', floor=2, other=3)"


def test_a_dataclass_is_an_objective_too(pair, table):
    every = (OwnData(), OwnData(2.0), OwnData(sites=("a",)))
    assert len({json.dumps(run_identity(pair, table, own)) for own in every}) == 3
    changed = OwnData()
    changed.scale = 2.0
    assert identity(changed) == identity(every[1])


def test_constructors_keep_their_signatures():
    assert str(inspect.signature(inference.Renyi)).startswith("(particles: 'int' = 8, alpha")
    assert list(inspect.signature(Own).parameters) == ["scale", "sites", "floor", "more"]
    with pytest.raises(TypeError, match="bet"):
        inference.ELBO(bet=3)


def test_copies_are_equal():
    bound = inference.ELBO(beta={"z": 2.0}, free_bits=0.5) + inference.Classification("y")
    for other in (copy.copy(bound), copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        assert other == bound and repr(other) == repr(bound)


def penalty(run):
    return run.batch["x"].sum()


def scaled(scale):
    return lambda run: scale * run.batch["x"].sum()


SHIFT = 3.0


def test_functions_are_told_by_name_or_by_code():
    assert identity(penalty) == f"{__name__}:penalty"
    assert identity(np.mean) == "numpy:mean"
    one, same = (lambda run: run + 1), (lambda run: run + 1)
    other, outer = (lambda run: run + 2), (lambda run: run + SHIFT)
    assert identity(one) == identity(same) != identity(other)
    assert identity(scaled(1)) == identity(scaled(1)) != identity(scaled(2))
    before = identity(outer)
    globals()["SHIFT"] = 4.0
    assert identity(outer) != before
    partial = functools.partial(penalty, scale=1)
    assert identity(partial) != identity(functools.partial(penalty, scale=2))
    assert "test_options:penalty" in text(partial)
    nested = [lambda run, c=c: [x + c for x in run] for c in (1, 2)]
    assert identity(nested[0]) != identity(nested[1])
    for function in (one, scaled(1), partial, nested[0], Own(1).rows, print, [].append):
        assert not ADDRESS.search(json.dumps(identity(function)))


def test_an_identity_is_that_of_every_process():
    code = """
from ppl_models.inference import Penalty
from ppl_models.inference.objectives.options import identity
import json, torch
from torch import nn
torch.manual_seed(0)
class Thing:
    def __init__(self): self.names = {"b", "a", "c"}
values = [lambda run: run in {"a", "b", "c"}, Thing(), nn.Linear(2, 2), {"x", "y"}, object(),
    torch.Generator(), (lambda n: lambda run: n)(3), torch.arange(3.0), Penalty("p", print)]
print(json.dumps(identity(values)))
"""
    told = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1] and not ADDRESS.search(told[0])


def test_networks_are_told_by_place_or_structure(pair, table):
    net, wider = nn.Linear(2, 2), nn.Linear(2, 3)
    before = identity(net)
    with torch.no_grad():
        net.weight.add_(1)
    assert identity(net) == before != identity(wider)  # it trains
    assert identity(nn.Dropout(0.1)) != identity(nn.Dropout(0.2))
    net.requires_grad_(False)
    frozen = identity(net)
    net.weight.add_(1)
    assert identity(net) != frozen  # it is constant
    stops = [
        inference.StopGradient(inference.ELBO(), part)
        for part in (pair.decoder, pair.guide, pair.decoder.requires_grad_(True))
    ]
    told = [run_identity(pair, table, stop)["stages"][0]["objective"]["modules"] for stop in stops]
    assert told == [["pair.decoder"], ["pair.guide"], ["pair.decoder"]]
    assert identity(nn.Parameter(torch.ones(2))) == "parameter(float32 (2,))"


def test_what_holds_itself_comes_to_an_end():
    held = Own(1)
    held.more = [held]
    loop: list = [Own(2)]
    loop.append(loop)
    assert identity(Own(loop))["scale"][1] == "..."
    held.scale = 3.0
    assert identity(held)["scale"] == 1


@pytest.mark.parametrize(
    "changed",
    [{"name": "q"}, {"objective": inference.ELBO(beta=2.0)}, {"module": nn.Linear(2, 3)},
     {"parameters": ("decoder",)}, {"steps": 2}, {"learning_rate": 0.1}, {"betas": (0.5, 0.9)},
     {"weight_decay": 0.0}, {"rates": {"weight": 0.1}}, {"weights": "given"}],
)  # fmt: skip
def test_every_option_of_a_player_tells_runs_apart(pair, table, changed):
    options = {"name": "p", "objective": inference.ELBO(), "module": nn.Linear(2, 2)}
    others = ["parameters", "steps", "learning_rate", "betas", "weight_decay", "rates", "weights"]
    assert {f.name for f in dataclasses.fields(Player)} == {*options, *others}
    one, same, other = (Player(**o) for o in (options, options, {**options, **changed}))
    told = [
        run_identity(pair, table, inference.ELBO(), players=(player,))
        for player in (one, same, other)
    ]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize(
    "changed",
    [{"name": "s"}, {"pair": "guide"}, {"sites": ("x",)}, {"observed": "y"}, {"start": print},
     {"prepare": lambda batch: batch}, {"freeze": ("decoder",)}, {"simultaneous": True},
     {"rates": {"decoder": 0.1}},
     {"training": inference.Training(epochs=3)}],
)  # fmt: skip
def test_every_option_of_a_stage_tells_runs_apart(pair, table, changed):
    if "pair" in changed:
        changed = {"pair": zoo.build("vae", data_dim=3, latent=2, hidden=(2,))}
    plain = run_identity(pair, table, inference.ELBO())
    assert plain != run_identity(pair, table, inference.ELBO(), **changed)


@pytest.mark.parametrize(
    ("other", "plain"),
    [
        (lambda: IWELBO(particles=np.int64(8)), lambda: IWELBO(8)),
        (lambda: IWELBO(torch.tensor(8)), lambda: IWELBO(8)),
        (lambda: IWELBO(np.array(8)), lambda: IWELBO(8)),
        (lambda: Classification(np.str_("y"), weight=np.float32(0.5)),
         lambda: Classification("y", weight=0.5)),
        (lambda: np.float64(0.5) * IWELBO(8), lambda: 0.5 * IWELBO(8)),
        (lambda: np.array(0.5) * IWELBO(8), lambda: 0.5 * IWELBO(8)),
        (lambda: torch.tensor(0.5) * IWELBO(8), lambda: 0.5 * IWELBO(8)),
        (lambda: IWELBO(8) * np.int32(2), lambda: 2 * IWELBO(8)),
    ],
)  # fmt: skip
def test_numbers_of_other_libraries_are_plain(other, plain):
    assert other() == plain()
    assert repr(other()) == repr(plain())
    json.dumps(identity(other()))
    assert identity(other()) == identity(plain())


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: IWELBO(8.5), ValueError, "particles is 8.5, expected a whole number"),
        (lambda: IWELBO("8"), ValueError, "particles is '8', expected a whole number"),
        (lambda: IWELBO([8]), ValueError, "particles is [8], expected a whole number"),
        (lambda: IWELBO(8) * "2", TypeError, "can't multiply"),
        (lambda: Stage(IWELBO(8), freeze="decoder"), ValueError,
         "freeze of stage 'fit' is 'decoder', expected a tuple such as ('decoder',)"),
        (lambda: Stage(IWELBO(8), "s", sites="x"), ValueError,
         "sites of stage 's' is 'x', expected a tuple such as ('x',)"),
        (lambda: Player("d", IWELBO(8), parameters="guide"), ValueError,
         "parameters of player 'd' is 'guide', expected a tuple such as ('guide',)"),
        (lambda: Player("d", IWELBO(8), parameters=("guide",), steps=0.5), ValueError,
         "steps of player 'd' is 0.5, expected a whole number"),
        (lambda: with_training((Stage(IWELBO(8)),), {"epochs": np.float64(2)}), ValueError,
         "epochs is 2.0, expected a whole number"),
    ],
)  # fmt: skip
def test_options_of_a_wrong_kind(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()
