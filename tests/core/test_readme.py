"""The README's shell lines run as written, one after the other, on a machine without data."""

from __future__ import annotations

import re
import runpy
import shlex
import warnings
from pathlib import Path

from ppl_models.commands.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DONE = {"check": {0, 3}}  # 3: the posterior is not to be trusted, as it may be said of one


def lines() -> list[list[str]]:
    """The words of each command of the blocks of shell, in order."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
    joined = text.replace("\\\n", " ").splitlines()
    parts = [part for line in joined for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def test_every_block_of_shell_says_so():
    """So that none is left out: a block that names no language holds no command."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for language, block in blocks:
        command = re.search(r"^(ppl-models|python3?|pip) ", block, re.MULTILINE)
        assert language == "sh" or not command, block


def test_shell_lines_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPL_DATA", str(tmp_path / "none"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    formed = warnings.formatwarning
    monkeypatch.setattr(warnings, "formatwarning", formed)  # the command line has its own
    ran = 0
    for words in lines():
        program, rest = Path(words[0]).name, words[1:]
        if program == "ppl-models":
            code = main(rest)
            out, err = capsys.readouterr()
            assert code in DONE.get(rest[0], {0}), (shlex.join(words), out, err)
            ran += 1
        elif program == "python" and rest[0] != "-m":
            runpy.run_path(rest[0], run_name="__main__")
        else:  # what CI itself runs: the environment, the installation and the tests
            assert program in ("python3", "pip", "python"), words
            assert rest[:2] in (["-m", "venv"], ["install", "-q"], ["-m", "pytest"]), words
    assert ran > 15
