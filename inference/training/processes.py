"""One run over several processes: who they are, and what they add up and agree on.

Every process holds the whole data set and the whole pair. At each step it evaluates its own
rows of the step's batch; one sum over the processes gives all of them the gradient and the
loss of the whole batch, so that parameters, optimisers, curve and decisions stay the same
everywhere. The first process alone writes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=5)  # without an answer, a process counts as lost
SYNC = 16  # steps between two looks of a GPU run at whether somebody wants to stop
NOTE = 512  # bytes of a message to the other processes
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_groups = itertools.count()


class LostProcess(RuntimeError):
    """Another process of the run has died or does not answer."""


@dataclass
class Processes:
    """The processes of a run, seen from one of them; alone by default.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
        control: Group for what stands in host memory.
        votes: Number of processes that wanted to stop at the last sum.
    """

    rank: int = 0
    count: int = 1
    control: Any = None
    votes: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sum_gradients(
        self,
        loss: Tensor,
        parameters: Sequence[nn.Parameter],
        stop: bool = False,
        parts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Replace this process's gradients by the sum over all of them.

        Every process evaluates every kind of rows, so the same parameters have a gradient
        everywhere. All of one type go in one message: DistributedDataParallel would overlap
        messages with the backward pass, but wants one forward call of one module, and here
        model, guide and factors are called apart.

        Args:
            loss: This process's part of the loss, a scalar.
            parameters: Parameters whose gradient is summed, where they have one.
            stop: Whether this process wants the run to stop; see :meth:`stopping`.
            parts: What the loss is made of ``(n,)``, as many in every process.

        Returns:
            The loss of the whole batch, and its parts.
        """
        vote = torch.full_like(loss, float(stop))
        told = loss.new_zeros(0) if parts is None else parts.to(loss.dtype)
        held = [p for p in parameters if p.grad is not None]
        for dtype in sorted({loss.dtype, *(p.dtype for p in held)}, key=str):
            own = [p for p in held if p.dtype == dtype]
            sent = [p.grad for p in own if p.grad is not None]
            if dtype == loss.dtype:
                sent += [told, loss.detach(), vote]
            flat = torch.cat([part.reshape(-1) for part in sent])
            with reached():
                dist.all_reduce(flat)
            pieces = flat.split([part.numel() for part in sent])
            for parameter, piece in zip(own, pieces, strict=False):
                parameter.grad = piece.view_as(parameter)
            if dtype == loss.dtype:
                told, loss, self.votes = pieces[-3], flat[-2], flat[-1]
        return loss, told

    def stopping(self, step: int, stop: bool) -> bool:
        """Whether the run stops after this step: the same answer everywhere.

        Args:
            step: The step; on a GPU the votes are looked at every 16th.
            stop: Whether this process wants to, which decides where it is alone.
        """
        if self.count == 1:
            return stop
        if self.votes.device.type != "cpu" and step % SYNC:
            return False
        return bool(self.votes > 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them have then come this far."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        with reached():
            dist.all_reduce(flags, group=self.control)
        return bool(flags > 0)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make()`` returns or raises in the first process, which alone calls it.

        Args:
            make: Returns tensors and plain values.

        Raises:
            ValueError: As the first process did.
            OSError: As the first process did.
        """
        if self.count == 1:
            return make()
        if not self.first:
            sent = self._receive()
            if "error" in sent:
                raise (OSError if sent["os"] else ValueError)(sent["error"])
            return sent["value"]
        try:
            value = make()
        except (ValueError, OSError) as error:
            self._send({"error": str(error), "os": isinstance(error, OSError)})
            raise
        self._send({"value": value})
        return value

    def agree(self, what: str, value: str) -> None:
        """Check that all processes were given the same, addresses of objects aside.

        Raises:
            ValueError: In all of them, if not.
        """
        value = re.sub(r"\b0x[0-9a-f]+", "", value)
        if self.any(self.from_first(lambda: value) != value):
            raise ValueError(f"the processes of this run were not given the same {what}")

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by the first process's."""
        if self.count > 1:
            for tensor in tensors:
                with reached():
                    held = tensor.detach().contiguous()
                    dist.broadcast(held, 0)
                    tensor.detach().copy_(held)

    def notes(self, text: str) -> list[str]:
        """The (shortened) texts of all processes, by rank."""
        if self.count == 1:
            return [text]
        own = torch.zeros(NOTE, dtype=torch.uint8)
        data = text.encode()[:NOTE]
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        received = [torch.zeros_like(own) for _ in range(self.count)]
        with reached():
            dist.all_gather(received, own, group=self.control)
        return [bytes(t.tolist()).rstrip(b"\0").decode(errors="ignore") for t in received]

    def _send(self, value: Any) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        with reached():
            dist.broadcast(torch.tensor(len(data)), 0, group=self.control)
            dist.broadcast(data, 0, group=self.control)

    def _receive(self) -> Any:
        length = torch.tensor(0)
        with reached():
            dist.broadcast(length, 0, group=self.control)
            data = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self.control)
        return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Around a message to the other processes of the group.

    Raises:
        LostProcess: If it does not reach them.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises no other kind
        raise LostProcess(
            f"process {dist.get_rank()} of {dist.get_world_size()} stopped: another one has died, "
            f"or did not answer for {TIMEOUT.seconds} s; resume the run from its last checkpoint"
        ) from error


@contextlib.contextmanager
def group(device: str | torch.device = "auto") -> Iterator[Processes]:
    """The processes that ``torchrun`` started together with this one, or this one alone.

    Used by :func:`ppl_models.inference.fit`; put it around several calls to use one group for
    all of them. A group that is there already, or the caller's own, is used and left open.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``: gloo joins CPUs, NCCL GPUs, one each.

    Raises:
        ValueError: If there are more processes on this machine than GPUs.
        LostProcess: If the others do not come.
    """
    if dist.is_available() and dist.is_initialized():
        yield _processes()
        return
    if any(name not in os.environ for name in LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
        yield Processes()
        return
    options: dict[str, Any] = {"backend": "gloo"}
    name = str(device)
    if name.startswith("cuda") or (name == "auto" and torch.cuda.is_available()):
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if int(os.environ["LOCAL_WORLD_SIZE"]) > there:
            raise ValueError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes share this machine's {there} GPUs, "
                "expected at most one process per GPU, or device cpu"
            )
        torch.cuda.set_device(place)
        options = {"backend": "nccl", "device_id": torch.device("cuda", place)}
    try:
        # The launcher's store outlives a group: each one needs names of its own in it.
        store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
        store = PrefixStore(f"ppl_models/{next(_groups)}", store)
        dist.init_process_group(
            store=store, rank=rank, world_size=count, timeout=TIMEOUT, **options
        )
    except RuntimeError as error:
        raise LostProcess(
            f"process {os.environ['RANK']} could not join the others: {str(error).splitlines()[0]}"
        ) from error
    try:
        with _told_to_stop():
            yield _processes()
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    # torchrun stops the others with SIGTERM when one has died: not without a word.
    def stop(*_: Any) -> None:
        raise LostProcess(
            f"process {os.environ['RANK']} was stopped (SIGTERM), as all are when another one "
            "has died; resume the run from its last checkpoint"
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _processes() -> Processes:
    if dist.get_world_size() == 1:
        return Processes()
    gloo = dist.get_backend() == "gloo"
    control = None if gloo else dist.new_group(backend="gloo", timeout=TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), control)


def check_modules(modules: nn.Module, processes: Processes, whose: str = "") -> None:
    """Refuse networks that normalise over the rows of one process.

    Args:
        modules: The networks.
        processes: Who shares the run.
        whose: Begins the message, where they are not the pair's.

    Raises:
        ValueError: Naming the first one.
    """
    if processes.count == 1:
        return
    for name, module in modules.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
            module, nn.SyncBatchNorm
        ):
            raise ValueError(
                f"{whose}{name or 'it'} is a {type(module).__name__}, which would see the rows of "
                "one process; expected torch.nn.SyncBatchNorm, or a layer that treats rows alone"
            )
