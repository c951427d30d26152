"""One run's folder is one process's at a time, and what dead ones left is removed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from worlds import run_files
from worlds.processes import together

from ppl_models import files, inference
from ppl_models.inference.training import run_folder
from ppl_models.inference.training.folder_lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from ppl_models.inference.training.folder_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
DEAD = f".state.pt.1-1@{files.HOST}.part"  # the first process began at another moment


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_fit_is_told_who_is_at_work(tmp_path, holder, options):
    out = tmp_path / "run"
    part = files.temporary(out / "state.pt")
    living = part.with_name(part.name.replace(str(os.getpid()), str(holder.pid)).replace(
        f"-{files.started(os.getpid())}@", f"-{files.started(holder.pid)}@"
    ))  # fmt: skip
    living.write_bytes(b"half")
    expected = (
        f"{out} is in use: process {holder.pid} on {files.HOST} is at work in it; wait for its "
        "end, or choose another folder"
    )
    with pytest.raises(inference.RunFolderError, match=f"^{re.escape(expected)}$"):
        run_files.make(out, **options)
    assert listed(out) == sorted([LOCK, living.name])


def test_a_killed_process_lets_go(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert listed(tmp_path / "run") == [LOCK]
    run_files.make(tmp_path / "run")
    assert listed(tmp_path / "run") == ["posterior.nc", "run.json", "state.pt"]


def test_threads_hold_a_folder_one_at_a_time(tmp_path):
    inside, seen, refused = [], [], []

    def work():
        for _ in range(200):
            try:
                with locked(tmp_path):
                    inside.append(1)
                    seen.append(len(inside))
                    inside.pop()
            except run_folder.RunFolderError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1} and len(seen) + len(refused) == 800
    assert listed(tmp_path) == []


def test_the_first_of_several_processes_holds_it(tmp_path):
    out = tmp_path / "run"

    def work(rank):
        def look(run, step):
            assert (out / LOCK).exists()

        run_files.make(out, callbacks=(look,) if rank == 0 else ())

    outcomes = together(2, tmp_path / "fork", work)
    assert [o.error for o in outcomes] == ["", ""]
    assert LOCK not in listed(out)


@pytest.mark.parametrize("kind", ["not finite", "interrupted", "callback"])
def test_a_run_that_ends_before_its_first_state_leaves_no_trace(tmp_path, kind):
    out = tmp_path / "runs" / "run"

    def fail(run, step):
        raise ZeroDivisionError

    options = {"learning_rate": 1e38} if kind == "not finite" else {"callbacks": (fail,)}
    if kind == "interrupted":
        options = {"callbacks": (lambda run, step: (_ for _ in ()).throw(KeyboardInterrupt),)}
    with pytest.raises((inference.NotFinite, ZeroDivisionError, KeyboardInterrupt)):
        run_files.make(out, **options)
    assert not out.exists()
    out.mkdir()
    with pytest.raises((inference.NotFinite, ZeroDivisionError, KeyboardInterrupt)):
        run_files.make(out, **options)
    assert listed(out) == []
    run_files.make(out)
    assert listed(out) == ["posterior.nc", "run.json", "state.pt"]


# ---- what dead ones left -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        (DEAD, True),
        (DEAD.replace("state.pt", "posterior.nc"), True),
        (DEAD.replace("1-1@", "99999999999999999999-1@"), True),
        (DEAD.replace("1-1@", f"{os.getpid()}-1@"), True),  # the number was given again
        (DEAD.replace("1-1@", f"{os.getppid()}-{files.started(os.getppid())}@"), False),
        (DEAD.replace(files.HOST, "elsewhere"), False),  # nobody here knows
        (".state.pt.part", False),
        ("mine.part", False),
    ],
    ids=range(8),  # names hold numbers of processes, and workers of tests must agree on them
)
def test_what_dead_processes_left_is_removed_at_the_next_start(tmp_path, name, removed):
    out = run_files.make(tmp_path / "run")
    (out / name).write_bytes(b"half")
    run_files.make(out, resume=True)
    assert (out / name).exists() is not removed


def test_whoever_writes_a_file_removes_what_is_left_of_it(tmp_path):
    path = tmp_path / "a[1].h5"
    for writer in ("1-1", "2-1"):
        (tmp_path / f".a[1].h5.{writer}@{files.HOST}.part").write_bytes(b"half")
    other = tmp_path / f".b.h5.1-1@{files.HOST}.part"
    other.write_bytes(b"half")
    files.write_atomically(path, lambda part: part.write_text("whole"))
    assert listed(tmp_path) == [other.name, path.name]


def test_a_killed_writer_is_known_to_be_dead(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from ppl_models import files\n"
        "def die(part):\n    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(Path(sys.argv[1]), die)"
    )
    path = tmp_path / "a"
    process = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    pid, start, host = files.WRITER.search(left.name).groups()
    assert not files.alive(int(pid), start, host)
    assert files.alive(os.getpid(), files.started(os.getpid()), files.HOST)
    files.remove_stale(tmp_path)
    assert listed(tmp_path) == []


# ---- the disk ----------------------------------------------------------------------------


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    path = tmp_path / "a"
    files.write_atomically(path, lambda part: part.write_text("whole"))
    assert done == [str(files.temporary(path)), "rename", str(tmp_path)]


def test_a_disk_that_fails_late_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"^cannot write {re.escape(str(path))}: No space left"):
        files.write_atomically(path, lambda part: part.write_text("new"))
    assert path.read_text() == "old" and listed(tmp_path) == ["a"]


@pytest.mark.parametrize("what", ["state", "posterior", "built set"])
def test_all_writers_go_to_the_disk(tmp_path, monkeypatch, what):
    from ppl_models import data

    out = run_files.make(tmp_path / "run")
    done = []
    monkeypatch.setattr(files, "_to_disk", done.append)
    if what == "state":
        run_files.restate(out, lambda state: None)
        path = out / "state.pt"
    elif what == "posterior":
        digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
        path = tmp_path / "p.nc"
        run = inference.load(out)
        run.posterior(digits.test, path=path, draws=20, prior_draws=0)
    else:
        path = tmp_path / "d.h5"
        data.write(data.load("digits", train=200, validation=20, test=20), path)
    assert done == [files.temporary(path), path.parent]
