"""Compiled steps: the values of uncompiled ones, whatever the pair, objective and moment."""

from __future__ import annotations

import os
import signal
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.compiled_steps import (
    assert_same_steps,
    build,
    fit,
    gradients,
    latent,
    normed,
    step_of,
    uncompiled,
)

import ppl_models as zoo
from ppl_models import catalogue, data, inference
from ppl_models.inference import (
    IWELBO,
    TMC,
    Anneal,
    Capacity,
    CodeCovariance,
    Consistency,
    Emphasis,
    EnumeratedELBO,
    HausdorffSupport,
    RelaxedELBO,
    Renyi,
    ScoreELBO,
    SelfNormalisedELBO,
    StopGradient,
    TotalCorrelation,
    WakeSleep,
)
from ppl_models.inference.training import compiled_step
from ppl_models.prior_rows import draw_rows
from ppl_models.sample_sites import is_delta
from ppl_models.testing.cases import Case, cases, kinds, small_settings
from ppl_models.testing.settled import settled

TINY = {"data_dim": 6, "classes": 3, "hidden": (5,), "latent": 4}


@pytest.fixture
def traced(monkeypatch):
    """The graphs that a fit compiles."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compiled_step, "inductor", keep)
    return graphs


# Pairs of every kind; the others, and those that take long, are among the long tests.
QUICK = ("vae", "m2", "deepscm", "svae_plus")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(
            pytest.param(n, torch.float32, marks=() if n in QUICK else pytest.mark.long)
            for n in catalogue.names()
        ),
        ("m2", torch.float64),
    ],
)
def test_every_stage_on_every_kind_of_rows(name, dtype):
    cls = catalogue.get(name)
    torch.manual_seed(0)
    pair = cls(cls.Config(**small_settings(cls))).to(dtype)
    for case in cases(pair):
        losses = assert_same_steps(case, rtol=1e-6, atol=1e-8)
        drawn = any(
            site["fn"].has_rsample and not is_delta(site["fn"]) for _, site in latent(case)
        )
        exchanged = next(iter(settled([case]))) is not case  # by a term of random exchanges
        # Fresh random numbers at each step, but where no row has a label to exchange within.
        assert exchanged or (losses[0] != losses[1]) == drawn


@pytest.mark.parametrize(
    "bound",
    [
        EnumeratedELBO(particles=2, beta=Anneal(0, 1)),
        pytest.param(EnumeratedELBO(grad="stl"), marks=pytest.mark.long),
        EnumeratedELBO(beta={"z": Anneal(0, 1)}, backend="funsor"),
        pytest.param(
            EnumeratedELBO() + Capacity("z", Anneal(1, 2), Anneal(0, 1)), marks=pytest.mark.long
        ),
        EnumeratedELBO(2, kl="analytic")
        + TotalCorrelation("z", Anneal(0, 2), "mss")
        + CodeCovariance("z", Anneal(0, 2), 1.0, "aggregate"),
        pytest.param(  # the one before, without its last term
            EnumeratedELBO(2, kl="analytic") + TotalCorrelation("z", Anneal(0, 2), "mss"),
            marks=pytest.mark.long,
        ),
        EnumeratedELBO() + HausdorffSupport("z", Anneal(0, 2), pairs=1),
        pytest.param(
            Consistency(EnumeratedELBO(), "x", data.Noise(), weight=Anneal(0, 2)),
            marks=pytest.mark.long,
        ),
        pytest.param(
            IWELBO(3, lam=0.5) + TotalCorrelation("z") + Emphasis("x", 2.0), marks=pytest.mark.long
        ),
        TMC(3) + Capacity("z", 1.0, 1.0, "row") + TotalCorrelation("z", 0.5, "mws"),
        pytest.param(IWELBO(3, grad="dreg"), marks=pytest.mark.long),
        IWELBO(3, lam=Anneal(1, 0), grad="dreg"),
        Renyi(3, Anneal(0.2, 0.8)),
        RelaxedELBO(2, Anneal(1, 0.3)),
        pytest.param(RelaxedELBO(1, Anneal(1, 0.3), prior="relaxed"), marks=pytest.mark.long),
        ScoreELBO(2, enumerate_labels=False),
        SelfNormalisedELBO(3, alpha=Anneal(0, 1)),
        pytest.param(TMC(3, lam=Anneal(1, 0)), marks=pytest.mark.long),
        WakeSleep(3, wake=Anneal(1, 0.5), sleep=Anneal(0, 0.5)),
    ],
    ids=repr,
)
def test_other_bounds(bound):
    torch.manual_seed(1)
    pair = zoo.build("m2", **TINY)
    for case in cases(pair, bound=bound):
        assert_same_steps(case, rtol=1e-5, atol=1e-7)


def test_a_gradient_stop():
    torch.manual_seed(2)
    pair = zoo.build("m2", **TINY)
    objective = StopGradient(EnumeratedELBO(), pair.decoder, missing="y") + EnumeratedELBO()
    for batch in kinds(pair, 7):
        assert_same_steps(Case(pair, objective, batch), rtol=1e-6, atol=1e-8)


def test_weights_that_are_loaded_or_frozen_later():
    torch.manual_seed(3)
    pair, other = (zoo.build("m2", **TINY, seed=s) for s in (1, 2))
    batch = kinds(pair, 7)[0]
    case, twin = (Case(p, p.objective(), batch) for p in (pair, other))
    step = step_of(case)
    step.gradient((case.batch,), 7)
    pair.load_state_dict(other.state_dict())
    torch.manual_seed(4)
    loss = step.gradient((case.batch,), 7).total
    ours = gradients(pair)
    torch.manual_seed(4)
    assert_close(loss, uncompiled(twin, 7).total.detach())
    assert_close(ours, gradients(other))
    pair.decoder.requires_grad_(False)
    step.gradient((case.batch,), 7)
    for name, grad in gradients(pair).items():
        assert (grad is None) == name.startswith("decoder"), name


# ---- dropout and buffers ----------------------------------------------------------------


def test_dropout_and_running_statistics():
    pair, twin = normed(), normed()
    batch = zoo.Batch({"x": torch.rand(9, 6).round()}, size=90)
    case, eager = (Case(p, p.objective(), batch) for p in (pair, twin))
    step = step_of(case)
    for mode in (True, True, True, False, True):
        pair.train(mode), twin.train(mode)
        torch.manual_seed(6)
        loss = step.gradient((batch,), 90).total
        torch.manual_seed(6)
        assert_close(loss, uncompiled(eager, 90).total.detach())
        assert_close(gradients(pair), gradients(twin))
        assert_close(dict(pair.named_buffers()), dict(twin.named_buffers()))
    assert len(step.graphs) == 2  # one per mode
    norm = pair.guide.factors["z"].net.layers[1]
    assert int(norm.num_batches_tracked) == 4 and norm.running_mean.abs().sum() > 0


# ---- fit --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def own_rows(pair):
    """Rows of the pair's own story, with each label in every other row."""
    rows = draw_rows(pair, 60)
    labels = {label: torch.arange(60) % 2 == 0 for label in pair.card.labels}
    return data.Table("rows", dict(rows), observed=labels)


SHORT = ("m2", "citris_vae")  # several kinds of rows, plates


@pytest.mark.parametrize(
    "paper",
    [n if n in SHORT else pytest.param(n, marks=pytest.mark.long) for n in catalogue.names()],
)
def test_a_fit_takes_the_same_steps(traced, paper):
    small = small_settings(catalogue.get(paper))
    plain, fast = (zoo.build(paper, **small) for _ in range(2))
    torch.manual_seed(0)
    rows = own_rows(plain)
    runs = fit(plain, rows), fit(fast, rows, compile=True)
    assert_close(fast.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    assert runs[1].history["loss"] == pytest.approx(runs[0].history["loss"], rel=1e-5)
    # One graph a side; clsvae has a term that counts only from some moment on, and two.
    sides = sum(1 + len(stage.players) for stage in plain.stages())
    assert len(traced) == sides + (paper == "clsvae")


class Judged(inference.Objective):
    """The pair makes a judge's mark of its codes small, the judge makes it large."""

    formula = "judge(z)"

    def __init__(self, judge, sign):
        super().__init__()
        self.judge, self.sign = judge, sign

    def rows(self, run):
        z = run.weights().guide.nodes["z"]["value"]
        return self.sign * self.judge(z).squeeze(-1).tanh()


@pytest.mark.parametrize("simultaneous", [True, False])
def test_a_game_takes_the_same_moves(digits, traced, simultaneous):
    ends = []
    for fast in (False, True):
        pair, judge = build("vae", digits), nn.Linear(2, 1)
        with torch.no_grad():
            judge.weight.fill_(0.5), judge.bias.zero_()
        player = inference.Player("judge", Judged(judge, -1.0), judge)
        objective = pair.objective() + Judged(judge, 1.0)
        stage = inference.Stage(objective, players=(player,), simultaneous=simultaneous)
        fit(pair, digits.train.only("x"), stages=(stage,), compile=fast)
        ends.append({**pair.state_dict(), **judge.state_dict(prefix="judge.")})
    assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)
    assert len(traced) == 2 and float(ends[0]["judge.weight"].sum()) != 1.0


def test_schedules_are_not_frozen_into_the_graph(digits, traced):
    """One graph while lambda is 1, one for all values on the way, one where it is 0."""
    plain, fast = build("m2", digits), build("m2", digits)
    for pair, fast_too in ((plain, False), (fast, True)):
        bound = IWELBO(2, lam=Anneal(1, 0, 0.3, 0.8)) + EnumeratedELBO() * 0.5
        fit(pair, digits.train.only("x"), objective=bound, epochs=5, compile=fast_too)
    assert_close(fast.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert len(traced) == 3


# The second stage of m1m2 is m2 on its codes.
@pytest.mark.parametrize("paper", [pytest.param("m2", marks=pytest.mark.long), "m1m2"])
def test_an_interrupted_compiled_run_resumes_bit_for_bit(digits, traced, tmp_path, paper):
    whole, part, again = (build(paper, digits) for _ in range(3))
    options = {"epochs": 3, "seed": 3, "compile": True}
    fit(whole, digits, **options)
    assert_resumes(whole, part, again, digits, tmp_path / "run", 6, **options)


def assert_resumes(whole, part, again, rows, folder, stop, **options):
    seen = []

    def interrupt(run, step):
        seen.append(step)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(part, rows, out=folder, callbacks=(interrupt,), **options)
    fit(again, rows, out=folder, resume=True, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_inductor_and_all_of_it_at_once(digits, tmp_path):
    """Kernels of the real compiler: dropout, buffers, a schedule, equality and resume."""
    rows = digits.train.only("x")
    width = rows.sites["x"].shape[1]
    # Between its ends, so that the compiler has one graph to make, of a number that moves.
    options = {"objective": IWELBO(2, lam=Anneal(0.9, 0.1)), "epochs": 2}
    plain, whole, part, again = (normed(width) for _ in range(4))
    fit(plain, rows, **options)
    options["compile"] = True
    fit(whole, rows, **options)
    assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    assert_resumes(whole, part, again, rows, tmp_path / "run", 3, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_the_same_steps(digits):
    """CUDA graphs: the noise and the values of uncompiled steps on the same GPU."""
    for precision, tolerance in (("full", 1e-4), ("bf16", 5e-2)):
        plain, fast = build("m2", digits), build("m2", digits)
        options = {"device": "cuda", "epochs": 5, "precision": precision}
        runs = fit(plain, digits, **options), fit(fast, digits, compile=True, **options)
        assert runs[1].history["loss"] == pytest.approx(runs[0].history["loss"], rel=tolerance)


def test_a_tensor_from_elsewhere_is_read_at_each_step():
    pair = zoo.build("m2", **TINY)

    class Offset(EnumeratedELBO):
        offset = torch.zeros(1)

        def rows(self, run):
            return super().rows(run) + self.offset

    case = Case(pair, Offset(), kinds(pair, 7)[0])
    step = step_of(case)
    torch.manual_seed(7)
    first = step.gradient((case.batch,), 1).total
    Offset.offset.fill_(2.0)
    torch.manual_seed(7)
    assert_close(
        step.gradient((case.batch,), 1).total - first, torch.tensor(2.0 * case.batch.size)
    )


def test_copies_of_a_pair_step_apart():
    pair = zoo.build("m2", **TINY)
    case = Case(pair, pair.objective(), kinds(pair, 7)[0])
    step_of(case).gradient((case.batch,), 1)
    twin = deepcopy(pair)
    assert all(isinstance(p, nn.Parameter) for p in twin.parameters())
    assert_close(twin.state_dict(), pair.state_dict())
