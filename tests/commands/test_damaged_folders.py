"""Damaged folders, odd arguments and odd names: one line that names the file, and no traceback."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from worlds import run_files
from worlds.combinations import in_turn

from ppl_models import files
from ppl_models.commands.main import main
from ppl_models.commands.output import shown
from ppl_models.pages.posterior_file import reading

READERS = ("export {} --draws 5 --rows 2", "report {} --simulations 0", "check {}",
           "intervene {} --set y=1 --rows 2", "transfer {} z --rows 2")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_files.make(tmp_path_factory.mktemp("runs") / "m2")


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_to_disk", lambda path: None)
    return shutil.copytree(whole, tmp_path / "run")


def told(capsys, line, codes=(0, 1, 2, 3)):
    """Exit code and what was said; never a traceback, never more than a line of an error."""
    code = main(line.split() if isinstance(line, str) else line)
    out, err = capsys.readouterr()
    assert code in codes, (line, out, err)
    assert "Traceback" not in err
    if code in (1, 2):
        errors = [words for words in err.splitlines() if "error: " in words]
        assert len(errors) == 1 and errors[0].startswith("ppl-models: error: "), err
        return code, errors[0]
    return code, out


@pytest.mark.parametrize(  # every third field by default, as all are read by one reader
    ("wrong", "every"),
    [(None, 3), *(pytest.param(w, 1, marks=pytest.mark.long) for w in (None, "x", [[1]], ...))],
)
def test_any_field_of_a_description_with_another_kind(capsys, folder, wrong, every):
    description = run_files.described(folder)
    skip = ("versions", "format", "sha256")
    for place, path in enumerate(list(run_files.entries(description))[::every]):
        if path[0] in skip:
            continue
        run_files.rewrite(folder, run_files.put(description, path, wrong))
        line = READERS[(0, 3, 4)[place % 3]].format(folder)
        code, text = told(capsys, line)
        assert not code or str(folder) in text, (path, text)


@pytest.mark.long
def test_a_report_of_a_description_with_any_field_of_another_kind(capsys, folder):
    description = run_files.described(folder)
    for place, path in enumerate(run_files.entries(description)):
        if path[0] in ("identity", "config") or place % 3:
            continue
        wrong = (None, "x", [[1]], ...)[place // 3 % 4]
        run_files.rewrite(folder, run_files.put(description, path, wrong))
        code, text = told(capsys, f"report {folder} --simulations 0")
        assert not code or str(folder) in text, (path, text)


@pytest.mark.parametrize(
    ("reader", "share", "name"), in_turn(READERS, [0, 0.01, 0.5, 0.99], run_files.NAMES)
)
def test_files_that_end_too_soon(capsys, folder, name, share, reader):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    code, text = told(capsys, reader.format(folder))
    reads = {"check": "posterior.nc", "report": ""}.get(reader.split()[0], "run.json state.pt")
    if not reads or name in reads:
        assert code == 2 and str(folder) in text, text
    else:
        assert code in (0, 3)


@pytest.mark.parametrize(
    "command", ["check {}", pytest.param("report {} --simulations 0", marks=pytest.mark.long)]
)
def test_mutated_posteriors(capsys, folder, command):
    """A netCDF file has no checksum: what comes of it is a number or an error, in a line."""
    path = folder / "posterior.nc"
    intact = path.read_bytes()
    for seed in range(20):
        path.write_bytes(run_files.mutated(intact, seed))
        code, text = told(capsys, command.format(path))
        assert code in (0, 3) or str(path) in text, text


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("check", 2, "the following arguments are required: DIR"),
        ("check {folder}/run.json", 2, "{folder}/run.json is damaged or no netCDF4 file"),
        ("report {folder}/none", 2, "{folder}/none: no such file"),
        ("report {folder} --simulations 1", 2, "simulations is 1, expected 0 or at least"),
        ("report {folder} --simulations x", 2, "argument --simulations: invalid int value: 'x'"),
        ("report {folder} --pair m1", 2, "{folder} holds a run of m2, not of m1"),
        ("export {folder} --rows 0", 2, "expected a whole number above 0, got '0'"),
        ("export {folder} --data none.npz", 2, "none.npz: no such file"),
        ("export {folder} --data digit", 2, "did you mean 'digits'"),
        ("export {folder} --data digits --labelled {{[]:1}}", 2, "digits does not take"),
        ("intervene {folder} --set y=1 --seed -1", 2, "seed is -1, expected a whole number from"),
        ("fit m2 --data digits --seed 99999999999999999999 --out {folder}/a", 2, "seed is 9999"),
        ("fit m2 --data digits --seed x --out {folder}/a", 2, "invalid int value: 'x'"),
        ("fit m2 --data digits --data-seed -1 --out {folder}/a", 2, "seed is -1, expected"),
        ("fit m2 --data digits --data-seed 1.5 --out {folder}/a", 2, "seed is 1.5, expected"),
        ("fit m2 --data digits --resume --overwrite --out {folder}/a", 2, "both on"),
        ("fit m2 --data digits --out {folder}/run.json", 2, "run.json exists and is no run"),
        ("fit m2 --data digits --out {folder}/run.json/a", 1, "{folder}/run.json/a"),
        ("fit m2 --data {folder}/run.json --out {folder}/a", 2, "unknown data set"),
        ("compare {folder} {folder}", 2, "{folder} is given twice"),
        ("compare {folder} {folder}/none", 2, "{folder}/none: no such file"),
    ],
)  # fmt: skip
def test_odd_arguments(capsys, folder, line, code, message):
    got, text = told(capsys, line.format(folder=folder))
    assert got == code and message.format(folder=folder) in text, text
    assert not (folder / "a").exists()


def test_what_nobody_thought_of_is_one_line_with_its_kind(capsys, monkeypatch):
    from ppl_models.commands import papers

    def fails(parser, rest):
        raise KeyError("a\nb")

    monkeypatch.setattr(papers, "list_papers", fails)
    expected = (
        "ppl-models: error: KeyError: 'a\\nb'; PPL_MODELS_TRACEBACK=1 shows where it arose\n"
    )
    assert main(["list"]) == 1 and capsys.readouterr().err == expected
    monkeypatch.setenv("PPL_MODELS_TRACEBACK", "1")
    assert main(["list"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith(expected)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("z"), "a.nc cannot be read: KeyError: 'z'"),
        (ValueError("no group"), "a.nc: no group"),
        (ValueError("a.nc is damaged"), "a.nc is damaged"),
        (
            OSError("inflate() failed\n at 3"),
            "a.nc cannot be read: OSError: inflate() failed at 3",
        ),
        (AttributeError(), "a.nc cannot be read: AttributeError"),
    ],
)
def test_errors_of_a_file_name_it(error, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), reading("a.nc"):
        raise error


# ---- what the terminal gets --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x07\x00", "a\\rb\\x07\\x00"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("abc\u202edcb", "abc\\u202edcb"),
        ("half \ud800 of one", "half \\ud800 of one"),
        ("über 猫\n\tx", "über 猫\n\tx"),
    ],
)
def test_nothing_that_acts_on_a_terminal_reaches_it(text, expected):
    assert shown(text) == expected


@pytest.mark.parametrize("where", ["paper", "status", "class"])
def test_control_characters_from_files_are_escaped(capsys, folder, tmp_path, where):
    bad = "\x1b]0;mine\x07\x1b[2J\ud800"
    if where == "class":
        np.savez(tmp_path / "rows.npz", x=np.ones((30, 2)), y=["\x1b[2J", "b", "c"] * 10)
        line = f"data preview {tmp_path}/rows.npz"
    else:
        description = run_files.described(folder)
        description[where] = bad
        description["identity"]["paper"] = description["paper"]
        run_files.rewrite(folder, description)
        run_files.restate(folder, lambda state: state.pop("run"))
        line = f"fit m2 --data digits --out {folder}" if where == "status" else f"export {folder}"
    main(line.split())
    out, err = capsys.readouterr()
    assert "\\x1b" in out + err and "\x1b" not in out + err


def test_json_has_no_raw_control_characters(capsys):
    from ppl_models.commands.output import say_json

    say_json({"a": "\x1b\x7f\x9b\ud800"})
    out = capsys.readouterr().out
    assert out == '{"a": "\\u001b\\u007f\\u009b\\ud800"}\n'
    assert json.loads(out)["a"] == "\x1b\x7f\x9b\ud800"


# ---- --data ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of a file that was given by a relative path."""
    place = tmp_path_factory.mktemp("here")
    draw = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(place / "rows.npz", x=draw.random((120, 6)) * (1 + y[:, None]) / 3, y=y)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        line = "fit m2 --data rows.npz --labelled 30 --hidden 4 --latent 2 --epochs 1 --quiet"
        assert main(f"{line} --draws 5 --rows 3 --out run".split()) == 0
    return place


EXPORT = "export {} --draws 5 --rows 4 --json"


def test_a_relative_path_leads_to_the_data_from_everywhere(capsys, fitted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _ = told(capsys, f"{EXPORT.format(fitted / 'run')} --file {tmp_path}/p.nc")
    assert code == 0
    assert run_files.described(fitted / "run")["data"]["name"] == str(fitted / "rows.npz")


@pytest.mark.parametrize("command", [EXPORT, "transfer {} z --rows 2 --out {}/z.npz"])
def test_data_that_moved_are_named_again(capsys, fitted, tmp_path, command):
    shutil.copytree(fitted / "run", tmp_path / "run")
    shutil.copy(fitted / "rows.npz", tmp_path / "moved.npz")
    description = run_files.described(tmp_path / "run")
    for data in (description["data"], description["identity"]["data"]):
        data["name"] = str(tmp_path / "gone.npz")
    run_files.rewrite(tmp_path / "run", description)
    line = command.format(tmp_path / "run", tmp_path)
    code, text = told(capsys, line)
    assert code == 2 and "gone.npz: no such file" in text
    assert main(f"{line} --data {tmp_path}/moved.npz".split()) == 0
    assert capsys.readouterr().err == ""  # the same rows


def test_other_rows_are_said_to_be_others(capsys, fitted, tmp_path):
    draw = np.random.default_rng(1)
    np.savez(tmp_path / "other.npz", x=draw.random((60, 6)), y=np.arange(60) % 3)
    line = f"{EXPORT.format(fitted / 'run')} --file {tmp_path}/p.nc --data {tmp_path}/other.npz"
    assert main([*line.split(), "--splits", "(20,20,20)", "--labelled", "None"]) == 0
    assert capsys.readouterr().err == (
        f"ppl-models: {tmp_path}/other.npz is not what {fitted}/run was fitted on; these are "
        "other rows\n"
    )


def test_data_that_changed_are_refused_without_a_word_from_the_user(capsys, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "here")
    description = run_files.described(tmp_path / "here" / "run")
    for data in (description["data"], description["identity"]["data"]):
        data["name"] = str(tmp_path / "here" / "rows.npz")
    run_files.rewrite(tmp_path / "here" / "run", description)
    rows = dict(np.load(tmp_path / "here" / "rows.npz"))
    rows["x"][0, 0] += 0.5
    np.savez(tmp_path / "here" / "rows.npz", **rows)
    code, text = told(capsys, EXPORT.format(tmp_path / "here" / "run"))
    assert code == 2 and "have changed since" in text and "--data" in text
