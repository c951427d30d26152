"""Claims of hours: a run that was stopped goes on, within its fits, and comes to the same."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from claims import measuring
from worlds import killed_fit


@pytest.fixture
def one_thread():
    """As in the processes of claims, whose rounding is that of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_killed_fit_goes_on_to_the_same_errors(tmp_path, monkeypatch, one_thread):
    _, (whole, first) = measuring._kept(tmp_path / "whole", killed_fit.job, (0,))
    assert first == 1
    assert len(whole["test"]) == len(whole["validation"]) == len(whole["passes"]) == 6
    assert whole["passes"][-1] == 3
    killed = tmp_path / "killed"
    monkeypatch.setenv("CLAIMS_RESUME", str(killed))
    monkeypatch.setenv("KILLED_AT", "20")
    with pytest.raises(BrokenProcessPool):
        measuring.run_all(killed_fit.job, [(0,)], 1)
    monkeypatch.delenv("KILLED_AT")
    _, (found, first) = measuring._kept(killed, killed_fit.job, (0,))
    assert 1 < first <= 20
    told = ("passes", "validation", "test")
    assert [found[name] for name in told] == [whole[name] for name in told]
    assert [path.suffix for path in killed.iterdir()] == [".pkl"]


CALLS: list[int] = []


def called(number: int) -> None:
    CALLS.append(number)


def test_what_a_job_came_to_is_found_again_with_its_time(tmp_path):
    CALLS.clear()
    assert measuring._kept(tmp_path, called, (3,)) == (0.0, None)
    seconds, found = measuring._kept(tmp_path, called, (3,))
    assert found is None
    assert seconds > 0
    assert CALLS == [3]


def test_where_all_is_kept_no_process_starts(tmp_path, monkeypatch):
    def submit(*arguments, **options):
        raise AssertionError("a process was asked for")

    monkeypatch.setenv("CLAIMS_RESUME", str(tmp_path))
    monkeypatch.setattr(measuring.ProcessPoolExecutor, "submit", submit)
    for number in (2, -3):
        measuring._kept(tmp_path, abs, (number,))
    monkeypatch.setattr(measuring, "SAVED", {})
    assert measuring.run_all(abs, [(-3,), (2,)]) == [3, 2]
    assert list(measuring.SAVED) == ["abs(-3,)", "abs(2,)"]
    with pytest.raises(AssertionError, match="a process was asked for"):
        measuring.run_all(abs, [(-3,), (-4,)])


def test_another_code_begins_anew(tmp_path, monkeypatch):
    monkeypatch.delenv("CLAIMS_RESUME", raising=False)
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    before = measuring.kept_in(killed_fit.job)
    assert before.parent == tmp_path / ".claims"
    (tmp_path / "inference").mkdir()
    file = tmp_path / "inference" / "bound.py"
    found = {before}
    for text in ("a = 1", "a = 2"):
        file.write_text(text)
        found.add(measuring.kept_in(killed_fit.job))
    assert len(found) == 3
    file.unlink()
    assert measuring.kept_in(killed_fit.job) == before


def test_they_are_asked_for_within_a_job_only():
    with pytest.raises(RuntimeError, match="within a job"):
        measuring.kept(len, "ab")
    with pytest.raises(RuntimeError, match="within a job"):
        measuring.resumed_fit("m2", None, None)
