"""The command line: what it prints and writes, its exit codes, and one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import arviz as az
import pytest

from ppl_models import catalogue, data
from ppl_models.commands import fit
from ppl_models.commands.flags import Parser, add_loader, add_settings
from ppl_models.commands.main import COMMANDS, main
from ppl_models.inference import Training
from ppl_models.version import __version__

FIT = "fit m2 --data digits --train 200 --validation 20 --test 30 --labelled 30"
FIT += " --hidden 8 --latent 2"
QUICK = f"{FIT} --epochs 2 --draws 30 --quiet"


def run(capsys, line):
    code = main(line.split())
    out, err = capsys.readouterr()
    return code, out, err


def error(capsys, line, code=2):
    got, out, err = run(capsys, line)
    assert (got, out) == (code, "")
    assert err.startswith("ppl-models: ") and err.count("\n") == 1, err
    return err


def test_list_and_show(capsys):
    code, out, _ = run(capsys, "list --json")
    papers = json.loads(out)
    assert code == 0 and sorted(papers) == sorted(catalogue.PAPERS)  # not pairs of other tests
    code, out, _ = run(capsys, "list")  # by family, then by name
    assert [line.split()[:2] for line in out.splitlines()] == sorted(
        ([name, papers[name]["family"]] for name in papers), key=lambda row: (row[1], row[0])
    )
    code, out, _ = run(capsys, "show m2 --json")
    shown = json.loads(out)
    assert shown["arxiv"] == "1406.5298"
    assert {f["name"]: f["default"] for f in shown["config"]}["alpha"] == 0.1
    code, out, _ = run(capsys, "show m2")
    assert "q(y | x) q(z | x, y)" in out and "| ---" not in out and "mermaid" not in out
    assert "\nz  style (L)        latent\n" in out
    code, out, _ = run(capsys, "show m2 --markdown")
    assert "| `z` | style (L) | latent |" in out and "```mermaid" in out
    code, out, _ = run(capsys, "show fid")
    assert out.startswith("fid\n\n") and "\nLimits\n" in out


def test_papers_are_found_by_family_and_task(capsys):
    assert run(capsys, "list --family bio")[1] == (
        "svae_plus  bio  2023  which latents of a cell a perturbation shifts  Learning Causal "
        "Representations of Single Cells via Sparse Mechanism Shift Modeling\n"
    )
    out = run(capsys, "list --family causal --task COUNTERFACTUAL")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["deepscm", "imagecfgen"]


def test_fit_export_check(capsys, tmp_path):
    code, out, _ = run(capsys, f"{QUICK} --out {tmp_path}/a --json --baseline")
    report = json.loads(out)
    assert code == 0
    assert report["rows"] == 200 and report["steps"] == 4
    assert 0 <= report["supervised-only error of y"] < report["test error of y"] <= 1
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "posterior.nc", "run.json", "state.pt",
    ]  # fmt: skip
    idata = az.from_netcdf(str(tmp_path / "a" / "posterior.nc"), engine="h5netcdf")
    assert idata.posterior["z"].shape == (1, 30, 30, 2)
    assert idata.posterior.sizes["datum"] == 30
    code, out, _ = run(
        capsys, f"export {tmp_path}/a --split validation --rows 7 --draws 30 --json"
    )
    assert code == 0
    again = az.from_netcdf(json.loads(out)["posterior"], engine="h5netcdf")
    assert again.posterior["y"].shape == (1, 30, 7)
    few = f"export {tmp_path}/a --rows 7 --draws 30 --file {tmp_path}/few.nc --draws-for"
    assert run(capsys, f"{few} 2")[0] == 0
    again = az.from_netcdf(f"{tmp_path}/few.nc", engine="h5netcdf")
    assert again.posterior["y"].shape == (1, 30, 2)
    assert again.diagnostics["khat"].sizes["datum"] == 7
    code, _, problem = run(capsys, f"{few} 0")
    assert code == 2 and "--draws-for: expected a whole number above 0, got '0'" in problem
    code, _, problem = run(capsys, f"{few} 2 --method nuts")
    assert code == 2 and "--draws-for goes with --method guide" in problem
    code, out, _ = run(capsys, f"check {tmp_path}/a --json")
    assert code == (0 if json.loads(out)["trusted"] else 3)


def test_nuts_from_a_run(capsys, tmp_path):
    assert run(capsys, f"{QUICK} --out {tmp_path}/a")[0] == 0
    line = f"export {tmp_path}/a --method nuts --rows 2 --draws 8 --file {tmp_path}/n.nc --quiet"
    assert run(capsys, line)[0] == 0
    idata = az.from_netcdf(str(tmp_path / "n.nc"), engine="h5netcdf")
    assert idata.attrs["inference_method"] == "nuts"
    assert idata.posterior["z"].shape == (2, 8, 2, 2)


def test_check_says_no_with_exit_code_3(capsys, tmp_path):
    """A guide that is a tenth as wide as it should be is caught by k-hat."""
    import torch

    import ppl_models as zoo
    from ppl_models import inference
    from ppl_models.inference.posterior import export

    digits = data.load("digits", train=200, validation=20, test=30, labelled=30)
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    inference.fit(pair, digits, epochs=40, learning_rate=0.01, progress=False)
    head = pair.guide.factors["z"].net.rest[-1]
    with torch.no_grad():
        head.bias[2:] -= 2 * torch.tensor(10.0).log()
    export.save(inference.Run(pair, "test").posterior(digits.test), tmp_path / "posterior.nc")
    code, out, _ = run(capsys, f"check {tmp_path}")
    assert code == 3
    assert "k-hat" in out and out.endswith("not to be trusted\n")


def test_objective_and_settings_reach_the_run(capsys, tmp_path):
    line = f"{QUICK} --objective iwelbo(particles=2,grad=dreg) --alpha 0.5 --out {tmp_path}/a"
    assert run(capsys, line)[0] == 0
    saved = json.loads((tmp_path / "a" / "run.json").read_text())
    assert saved["config"]["alpha"] == 0.5 and saved["config"]["hidden"] == [8]
    (stage,) = saved["stages"]
    assert stage["objective"] == (
        "IWELBO(particles=2, grad='dreg') + Classification('y', weight=0.5)"
    )
    assert saved["data"]["options"]["labelled"] == 30


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("learnt", "learnt"),
        ("frequencies", [0.1] * 10),
        ("0.3 0.3 0.1 0.1 .05 .05 0.025 2.5e-2 0.025 0.025",
         [0.3, 0.3, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.025, 0.025]),
    ],
)  # fmt: skip
def test_a_prior_over_labels_is_a_name_or_numbers(capsys, tmp_path, words, kept):
    assert run(capsys, f"{QUICK} --out {tmp_path}/a --label-prior {words}")[0] == 0
    saved = json.loads((tmp_path / "a" / "run.json").read_text())
    assert saved["config"]["label_prior"] == kept
    assert run(capsys, f"export {tmp_path}/a --draws 2")[0] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit m2 --data digits --label-prior 0.5 0.5 --out {out}", "label_prior has 2 numbers"),
        ("fit m2 --data digits --label-prior learned --out {out}", "did you mean 'learnt'?"),
        ("fit m2 --data digits --label-prior learnt 0.5 --out {out}", "or a number per class"),
        ("lst", "did you mean 'list'"),
        ("show m22", "did you mean 'm2'"),
        ("list --family casual", "unknown family 'casual': did you mean 'causal'"),
        ("list --family bio --task poetry", "no task of the family bio has the words 'poetry'"),
        ("fit va --data digits --out {out}", "did you mean 'vae'"),
        ("fit m2 --data digit --out {out}", "did you mean 'digits'"),
        ("fit m2 --data digits --labeled 9 --out {out}", "did you mean '--labelled'"),
        ("fit m2 --data digits --hiden 9 --out {out}", "did you mean '--hidden'"),
        ("fit m2 --data digits --objective iwelb --out {out}", "did you mean 'iwelbo'"),
        ("fit m2 --data digits --objective iwelbo(particle=2) --out {out}", "'particles'"),
        ("fit m2 --data digits --objective iwelbo(particles=0) --out {out}", "particles is 0"),
        ("fit m2 --data digits --likelihood norml --out {out}", "did you mean 'normal'"),
        ("fit m2 --data digits --latent x --out {out}", "whole number"),
        ("fit m2 --data digits --latent 0 --out {out}", "latent is 0, expected at least 1"),
        ("fit m2 --data digits --labelled 9 --out {out}", "one row per class (10)"),
        ("fit m2 --data digits --epochs 0 --out {out}", "epochs is 0"),
        ("fit m2 --data {out}.npz --out {out}", "no such file"),
        ("fit m2 --data digits", "--out"),
        ("fit m2 --out {out}", "--data"),
        ("fit m2 --data mnist --root {out} --out {out}", "{out}"),
        ("fit m2 --data digits --device tpu3 --out {out}", "unknown device"),
        ("fit {out}.py:Mine --data digits --out {out}", "cannot load"),
        ("export {out}", "holds no run"),
        ("check {out}", "no such file"),
        ("check {out}.nc", "no such file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(capsys, tmp_path, line, words):
    out = tmp_path / "run"
    assert words.format(out=out) in error(capsys, line.format(out=out))
    assert not out.exists()


def test_a_folder_is_refused_before_any_work(capsys, tmp_path):
    assert run(capsys, f"{QUICK} --out {tmp_path}/a")[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert "holds a run of m2" in error(capsys, f"{QUICK} --out {tmp_path}/a")
    other = QUICK.replace("--latent 2", "--latent 3")
    assert "another run: its config.latent is 2, not 3" in error(
        capsys, f"{other} --resume --out {tmp_path}/a"
    )
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}


def test_a_posterior_that_cannot_be_written_leaves_the_old_one(capsys, tmp_path, monkeypatch):
    assert run(capsys, f"{QUICK} --out {tmp_path}/a")[0] == 0
    before = (tmp_path / "a" / "posterior.nc").read_bytes()
    code, _, err = run(capsys, f"export {tmp_path}/a --file {tmp_path}/none/p.nc")
    assert code == 2 and "is no folder" in err
    import os as system

    def full(a, b):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "replace", full)
    assert "No space left" in error(capsys, f"export {tmp_path}/a --draws 30", code=1)
    assert (tmp_path / "a" / "posterior.nc").read_bytes() == before
    assert len(list((tmp_path / "a").iterdir())) == 3


@pytest.mark.long
def test_ctrl_c_is_resumable_to_the_same_weights(tmp_path):
    """A real process, a real signal: exit code 130, no traceback, then the same result."""
    line = [*FIT.split(), "--epochs", "60", "--draws", "30", "--rows", "5"]
    command = [sys.executable, "-m", "ppl_models"]
    subprocess.run([*command, *line, "--quiet", "--out", f"{tmp_path}/whole"], check=True)
    process = subprocess.Popen(
        [*command, *line, "--out", f"{tmp_path}/part"], stderr=subprocess.PIPE, text=True
    )
    for text in iter(lambda: process.stderr.read(1), ""):
        if text == "%" and (tmp_path / "part" / "run.json").exists():
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "--resume" in err.splitlines()[-1] and "Traceback" not in err
    resumed = [*command, *line, "--quiet", "--resume", "--out", f"{tmp_path}/part"]
    subprocess.run(resumed, check=True)
    import torch

    a, b = (
        torch.load(tmp_path / n / "state.pt", weights_only=True)["model"]
        for n in ("whole", "part")
    )
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_no_two_flags_share_a_name():
    for paper in catalogue.PAPERS:
        for name in data.names():
            parser = Parser(prog="test")
            fit.fit(parser, [paper, "--data", name])  # argparse raises on a conflict
            dests = [action.dest for action in parser._actions]
            assert len(set(dests)) == len(dests)


def test_flags_are_read_off_the_dataclasses():
    parser = Parser(prog="test")
    names = add_settings(parser, catalogue.get("m2").Config, "m2")
    # Sizes come from the data.
    assert names == ["label_prior", "latent", "hidden", "likelihood", "alpha"]
    add_settings(parser, Training, "training", several=True)
    found = add_loader(parser, data.loader("mnist"), "mnist")
    assert found["data_seed"] == "seed"
    given = parser.parse_all(["--hidden", "3", "4", "--epochs", "1", "2", "--side", "14"])
    assert (given.hidden, given.epochs, given.side) == ([3, 4], [1, 2], 14)
    assert not hasattr(given, "latent")


def test_lists_and_help_are_light():
    """They read the index: no array library, no paper, and, as they are piped, no rich."""
    code = """
import contextlib, sys
from ppl_models.commands.main import COMMANDS, main
helps = [f"{name} --help" for name in COMMANDS if name != "fit"]  # which names training options
for line in ["--help", "--version", "list", "list --json", "data list", *helps]:
    with contextlib.suppress(SystemExit):
        main(line.split())
    heavy = {"torch", "pyro", "numpy", "pandas", "arviz", "matplotlib", "rich"}
    heavy &= sys.modules.keys()
    heavy |= {name for name in sys.modules if name.startswith("ppl_models.semisupervised")}
    assert not heavy, f"{line} imports {heavy}"
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("-h, --help") == len(COMMANDS)
    assert f"ppl-models {__version__}\n" in made.stdout


def test_help_names_every_setting_with_its_symbol(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "m2", "--data", "digits", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for words in ("alpha, weight of log q(y | x)", "--labelled", "--learning-rate", "--data-seed"):
        assert words in out


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "ppl_models", "lst"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 2 and "did you mean 'list'" in done.stderr
