"""Text of strangers as it is shown."""

from __future__ import annotations

import pytest

from ppl_models.printable import in_figure, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, 100 %", "plain text, 100 %"),
        ("ä 中文 שלום 🎉", "ä 中文 שלום 🎉"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\u202eevil\u200f", "\\u202eevil\\u200f"),
        ("\ufffe\uffff\ufdd0\U0001ffff", "\\ufffe\\uffff\\ufdd0\\U0001ffff"),
        ("\ud800", "\\ud800"),
        ("a\u2028b\x85", "a\\u2028b\\x85"),
    ],
)
def test_what_does_not_show_is_written_out(text, shown):
    assert printable(text) == shown
    printable(text).encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$\\frac{1}{$", "\\$\\frac{1}{\\$"),
        ("two\n lines\t", "two lines"),
        ("x" * 41, "x" * 39 + "…"),
        ("x" * 40, "x" * 40),
        (3, "3"),
        ("\x1b\ufffe", "\\x1b\\ufffe"),
    ],
)
def test_names_in_figures(name, shown):
    assert in_figure(name) == shown


def test_line_breaks_of_a_page_stay():
    assert printable("a\n\tb\x00", "\n\t") == "a\n\tb\\x00"
