"""States that are damaged, another run's, or of another place of the plan; what is no state."""

from __future__ import annotations

import math
import re
import shutil

import pytest
import torch
from worlds import run_files

import ppl_models as zoo
from ppl_models import data, files, inference
from ppl_models.inference.training import run_folder
from ppl_models.inference.training.not_finite import not_finite


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_files.make(tmp_path_factory.mktemp("runs") / "m2")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def resume(folder):
    return run_files.make(folder, resume=True)


def refused(folder, use=resume):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(inference.RunFolderError) as error:
        use(folder)
    assert "\n" not in str(error.value)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("use", [resume, inference.load])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_flipped_bit_anywhere_is_seen(folder, use, share):
    data = bytearray((folder / "state.pt").read_bytes())
    data[int(share * len(data))] ^= 4
    (folder / "state.pt").write_bytes(data)
    assert refused(folder, use) == "state.pt is damaged: its checksum differs"


@pytest.mark.parametrize("options", [{"seed": 1}, {"batch_size": 50}, {"learning_rate": 0.1}])
@pytest.mark.parametrize("use", [resume, inference.load])
def test_the_state_of_another_run_is_refused(folder, tmp_path, options, use):
    other = run_files.make(tmp_path / "other", **options)
    shutil.copy(other / "state.pt", folder)
    expected = "state.pt is the state of another run than run.json describes"
    assert refused(folder, use) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sides", [], "it has 0 optimisers, but 1 train in stage 'fit'"),
        ("sides", None, "its sides is None, expected a list"),
        ("stage", 7, "its stage is 8, expected 1 to 1"),
        ("stage", -1, "its stage is -1, expected a whole number >= 0"),
        ("step", 99, "it is at step 99 of 4 of stage 'fit'"),
        ("step", 2.0, "its step is 2.0, expected a whole number >= 0"),
        ("sum", None, "its sum is None, expected a number"),
        ("best", [], "its best is [], expected a table"),
        ("history", {"step": [1]}, "its history is no table of the numbers step, stage, loss, "),
        ("rng", torch.zeros(3), "RNG state must be a torch.ByteTensor"),
        ("rng", ..., "it lacks 'rng'"),
        ("count", ..., "it lacks 'count'"),
    ],
)
def test_a_state_of_another_place_is_refused(folder, key, value, message):
    def change(state):
        if value is ...:
            del state[key]
        else:
            state[key] = value

    run_files.restate(folder, change)
    assert message in refused(folder)


@pytest.mark.parametrize("shape", [(1,), (4, 65), ()])
def test_moments_of_another_shape_never_reach_the_optimiser(folder, shape):
    def change(state):
        moments = state["sides"][0]["optimiser"]["state"]
        assert moments[0]["exp_avg"].shape != shape
        moments[0]["exp_avg"] = torch.zeros(shape)

    run_files.restate(folder, change)
    words = rf"exp_avg of parameter 0 of 'pair' has shape {re.escape(str(shape))}, expected "
    assert re.search(words, refused(folder))


def test_options_of_the_optimiser_are_those_of_the_run(folder):
    def change(state):
        state["sides"][0]["optimiser"]["param_groups"][0]["lr"] = 1e9

    expected = run_files.read(resume(folder), "state.pt")[0]
    run_files.restate(folder, change)
    assert run_files.read(resume(folder), "state.pt")[0] == expected


@pytest.mark.parametrize("place", ["model", "sides"])
def test_more_entries_than_the_run_has_are_refused(folder, place):
    def change(state):
        if place == "model":
            state["model"]["more"] = torch.zeros(2)
        else:
            state["sides"].append(state["sides"][0])

    run_files.restate(folder, change)
    assert refused(folder).startswith("state.pt does not fit this run: ")


# ---- parameters that are not finite ------------------------------------------------------


def explodes(value, at):
    """Sets a parameter to a value after a step, as an overflow would."""

    def callback(run, step):
        if step == at:
            with torch.no_grad():
                next(run.pair.parameters()).view(-1)[0] = value

    return callback


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [3, 5, 8])
def test_parameters_that_are_not_finite_never_replace_those_that_are(tmp_path, value, step):
    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    out, kept, weights = tmp_path / "run", [], {}

    def keep(run, step):  # what the last checkpoint holds, and what the next one is to hold
        kept.append((out / "state.pt").read_bytes() if (out / "state.pt").exists() else b"")
        weights[step] = {n: v.clone() for n, v in run.pair.state_dict().items()}

    pair = zoo.build("m2", digits, hidden=(4,), latent=2)
    name = next(name for name, _ in pair.named_parameters())
    words = rf"^step {step + (step < 8)}: parameter '{name}' is no longer finite; try a smaller"
    with pytest.raises(inference.NotFinite, match=words):
        inference.fit(
            pair, digits, out=out, epochs=4, batch_size=100, progress=False, device="cpu",
            checkpoint_seconds=0, callbacks=(keep, explodes(value, step)),
        )  # fmt: skip
    state = run_folder.read_state(out)
    assert (out / "state.pt").read_bytes() == kept[-1]
    assert state["step"] == step - 1
    for name, value in weights[step - 1].items():
        assert torch.equal(state["model"][name], value), name
    pair = zoo.build("m2", digits, hidden=(4,), latent=2)
    options = {"epochs": 4, "batch_size": 100, "progress": False, "device": "cpu"}
    inference.fit(pair, digits, out=out, resume=True, **options)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_parameter_that_is_not_finite_is_named(place, value):
    """Of several precisions at once; finite numbers may have a sum that overflows."""
    held = [torch.full((3,), 3e38), torch.ones(2, 2, dtype=torch.float64), torch.ones(())]
    named = list(zip("abc", held, strict=True))
    assert not_finite([]) is None
    assert float(held[0].sum()) == math.inf and not_finite(named) is None
    held[place].view(-1)[-1] = value
    assert not_finite(named) == "abc"[place]
    held[-1].fill_(-value)
    assert not_finite(named) == "abc"[place]


def test_parameters_that_are_not_finite_at_the_end_are_told():
    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    pair = zoo.build("m2", digits, hidden=(4,), latent=2)
    with pytest.raises(inference.NotFinite, match=r"^step 8: parameter .* is no longer finite"):
        inference.fit(
            pair, digits, epochs=4, batch_size=100, progress=False, device="cpu",
            callbacks=(explodes(math.nan, 8),),
        )  # fmt: skip


# ---- the first step ----------------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("row", [0, 7, 39])
def test_an_overflow_at_the_first_step_names_site_and_row(tmp_path, compile, row):
    """Pyro's own checks, which look at the first step, would print tensors in its place."""
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    x[row] = 3e38
    table = data.Table("huge", {"x": x, "y": torch.arange(40) % 2}, classes={"y": ("a", "b")})
    pair = zoo.build("m2", data_dim=6, classes=2, hidden=(4,), latent=2, likelihood="normal")
    options = {"progress": False, "device": "cpu", "epochs": 1, "batch_size": 40}
    out = tmp_path / "run"
    words = rf"^step 1: log density of site '[xyz]' is (nan|not finite) at row {row}$"
    with pytest.raises(inference.NotFinite, match=words):
        inference.fit(pair, table, out=out, compile=compile, **options)
    assert not out.exists()
    table.sites["x"][row] = 0.5
    inference.fit(pair, table, out=out, **options)
    assert (out / "state.pt").exists()


def test_other_errors_of_the_first_step_stay_what_they_are():
    class Wrong(inference.EnumeratedELBO):
        def rows(self, run):
            raise ValueError("no such thing")

    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    with pytest.raises(ValueError, match=r"^no such thing$"):
        inference.fit(zoo.build("m2", digits), digits, objective=Wrong(), progress=False)


# ---- seeds -------------------------------------------------------------------------------

BAD = [-1, 2**63, 10**30, 1.5, "0", None, True]


@pytest.mark.parametrize("seed", BAD)
def test_seeds_outside_their_range_are_refused_before_the_folder_is_taken(folder, tmp_path, seed):
    expected = f"^{re.escape(f'seed is {seed!r}, expected a whole number from 0 to 2^63 - 1')}$"
    out = tmp_path / "new"
    with pytest.raises(ValueError, match=expected):
        run_files.make(out, seed=seed)
    assert not out.exists()
    with pytest.raises(ValueError, match=expected):
        zoo.build("m2", seed=seed)
    run = inference.load(folder)
    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    with pytest.raises(ValueError, match=expected):
        run.posterior(digits.test, path=out, seed=seed)
    assert not out.exists()


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_seeds_in_their_range_are_taken_by_all(tmp_path, seed):
    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    pair = zoo.build("m1", digits, seed=seed, hidden=(4,), latent=2, classifier=(4,))
    run = inference.fit(pair, digits, epochs=1, seed=seed, progress=False)
    run.posterior(digits.test, rows=[0], draws=5, prior_draws=2, seed=seed, restarts=(run,))


def test_a_state_is_on_the_disk_before_it_is_described(folder, monkeypatch):
    done = []
    monkeypatch.setattr(files, "_to_disk", lambda path: done.append(path.name))
    resume(folder)
    written = [name for name in done if name.endswith(".part")]
    assert [name.split(".")[1] for name in written[:2]] == ["state", "run"]
