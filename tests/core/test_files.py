"""Files that are written whole."""

from __future__ import annotations

import pytest

from ppl_models.files import write_atomically


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda p: p.write_text("first"))

    def fail(p):
        p.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*a\.txt: No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
