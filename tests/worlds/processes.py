"""Several processes in a test: forks of this one, so that none has to import anything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

PATIENCE = 60.0  # seconds


@dataclass
class Outcome:
    """What a process returned or raised; ``code`` is its exit code, ``seconds`` its life."""

    value: Any
    error: str
    kind: str
    code: int
    seconds: float


def together(count: int, folder: Path, work: Callable[[int], Any]) -> list[Outcome]:
    """Run ``work(rank)`` in ``count`` processes, as ``torchrun`` would start them.

    As its agent does, this process holds the store in which they meet. If the first of them did,
    the store of one group could end while another process joins the next.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    began = time.monotonic()
    processes = [
        context.Process(target=_work, args=(work, rank, count, port, folder))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    # Only now: a fork would share its socket. The processes wait for it.
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    outcomes = []
    for rank, process in enumerate(processes):
        process.join(max(0.0, began + PATIENCE - time.monotonic()))
        seconds = time.monotonic() - began
        if process.is_alive():
            process.kill()
            process.join()
        path = folder / f"{rank}.pt"
        found = torch.load(path, weights_only=True) if path.exists() else {}
        path.unlink(missing_ok=True)
        outcomes.append(
            Outcome(
                found.get("value"),
                found.get("error", ""),
                found.get("kind", ""),
                process.exitcode,
                seconds,
            )
        )
    del store
    return outcomes


def _work(work: Callable[[int], Any], rank: int, count: int, port: int, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    try:
        found = {"value": work(rank)}
    except BaseException as error:  # also a KeyboardInterrupt: the parent judges it
        found = {"error": str(error), "kind": type(error).__name__}
    torch.save(found, folder / f"{rank}.pt")
    os._exit(0)
