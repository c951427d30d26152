"""Pages in a terminal: cut or wrapped to its width, plain where piped, and harmless."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from ppl_models.commands import output
from ppl_models.commands.terminal import Columns, Heading, Points, Verbatim, put

ROWS = {
    "first": [("a", "one", "a long title that is cut where the terminal ends"), ("bb", "two", "")],
    "second": [("c", "[bold]three", "x\x1b[31my")],
}
LIST = Columns(("name", "task", "title"), ROWS, cut=True)


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What a terminal of some width is sent."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(width, *blocks):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        put(*blocks)
        return capsys.readouterr().out

    return shown


def lines(text):
    """Without colours and the blanks that fill a line."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def test_piped_rows_are_whole_and_plain(capsys):
    put(Heading("Papers"), "", LIST, Points(("a sentence",)))
    assert capsys.readouterr().out == (
        "Papers\n\n"
        "a   first   one          a long title that is cut where the terminal ends\n"
        "bb  first   two\n"
        "c   second  [bold]three  x\\x1b[31my\n\n"
        "- a sentence\n"
    )


def test_rows_are_cut_to_the_width_and_their_last_column_left_out(terminal):
    assert lines(terminal(45, LIST)) == [
        "name    task         title",
        "first",
        "a       one          a long title that is cu…",
        "bb      two",
        "",
        "second",
        "c       [bold]three  x\\x1b[31my",
    ]
    assert lines(terminal(30, LIST))[2] == "a       one"


def test_cells_wrap_in_a_page(terminal):
    text = terminal(24, Columns(("name", "meaning"), {"": [("a", "some words that wrap")]}))
    assert lines(text) == ["name  meaning", "a     some words that", "      wrap"]
    story = Verbatim("Story  x ~ N(0, I) and more\n       y ~ Cat(1/C)")
    assert lines(terminal(24, story)) == [
        "  Story x ~ N(0, I) and", "        more", "        y ~ Cat(1/C)",
    ]  # fmt: skip


def test_colours_are_the_only_codes_and_can_be_had_without(terminal, monkeypatch):
    assert "\x1b[1mfirst" in terminal(60, LIST) and "\x1b[31my" not in terminal(60, LIST)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal(60, LIST) and "…" in terminal(45, LIST)


def test_a_real_terminal_is_filled_and_not_more():
    main, end = pty.openpty()
    command = [sys.executable, "-m", "ppl_models", "list"]
    with subprocess.Popen(command, stdout=end, env={**os.environ, "COLUMNS": "80"}) as process:
        os.close(end)
        sent = b""
        while part := _read(main):
            sent += part
    os.close(main)
    shown = lines(sent.decode())
    assert process.returncode == 0 and max(map(len, shown)) <= 80
    assert "m2                   2014  semi-supervised classification" in shown
    assert "semisupervised" in shown


def _read(main):
    try:
        return os.read(main, 4096)
    except OSError:  # the other end is closed
        return b""


def test_numbers_are_rounded_for_people_alone(capsys):
    report = {"loss": 23.653018951416016, "steps": 1200000, "test error of y": 0.123456}
    output.tell(report, False)
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()] == [
        ["loss", "23.653"], ["steps", "1200000"], ["12.35", "%"],
    ]  # fmt: skip
    output.tell(report, True)
    assert "23.653018951416016" in capsys.readouterr().out
