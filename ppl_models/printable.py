"""Text of strangers, made so that a terminal, page or figure shows it and does nothing else."""

from __future__ import annotations

import unicodedata

# Control characters, directions of writing, halves of surrogate pairs, and ends of lines.
# Joiners, of which scripts and pictures are made, stay.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
LONGEST = 40  # letters of a name in a figure


def printable(text: str, keep: str = "") -> str:
    r"""Text whose characters that do not show are written as Python writes them: ``\x1b``.

    Args:
        text: Any text.
        keep: Characters that stay, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if _hides(letter) and letter not in keep
        else letter
        for letter in text
    )


def _hides(letter: str) -> bool:
    place = ord(letter)
    no_character = place & 0xFFFE == 0xFFFE or 0xFDD0 <= place <= 0xFDEF
    return no_character or (unicodedata.category(letter) in HIDDEN and letter not in JOINERS)


def in_figure(name: object) -> str:
    """A name as a figure shows it: in one line, no formula, and no longer than fits."""
    line = printable(" ".join(str(name).split()))
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    return line.replace("$", r"\$")
