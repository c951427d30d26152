"""Random numbers of a run over several processes: those that one process would have drawn."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_models.batch import Batch
from ppl_models.data.streams.stream import Share
from ppl_models.data.tables.seeds import PROCESS, TURN, generator
from ppl_models.inference.objectives.loss_parts import LossByPart, parts_of
from ppl_models.inference.training.gathered_rows import AllRows
from ppl_models.sample_sites import is_local, is_plate

if TYPE_CHECKING:
    from ppl_models.inference.objectives.base import Objective

aten = torch.ops.aten
# Noise whose distribution has no tensor for a parameter: filled in place, or made.
FILLS = {
    aten.normal_, aten.uniform_, aten.exponential_, aten.cauchy_, aten.log_normal_,
    aten.geometric_,
}  # fmt: skip
MAKES = {aten.randn: aten.normal_, aten.rand: aten.uniform_}
LIKES = {aten.randn_like: aten.normal_, aten.rand_like: aten.uniform_}


class Draws:
    """Where the random numbers of a process come from while it evaluates its rows.

    Two streams. The *common* one is the run's own random state, the same in all processes:
    sites outside the data plate take theirs from it, and sites inside draw the noise of the
    whole batch, of which the process keeps its rows. A run over several processes so sees the
    noise that one process would have seen. That holds wherever a draw is a function of noise
    that needs no parameters (Normal, also in flows and other transforms, multivariate or
    low-rank; Laplace, Gumbel, relaxed sites, Cauchy, Exponential). All other draws, which
    are those of rejection samplers (Gamma, Dirichlet, Poisson), of sampled discrete sites, of
    dropout, and of code outside any site, come from the process's *own* stream: right in
    distribution, and independent between processes.

    The own stream is a function of seed, key and rank, so the common state is all that a
    checkpoint has to hold.

    Args:
        seed: Seed of the run.
        rank: Number of the process.
        count: Number of processes; where it is 1, all draws are the common ones.
        device: Where the draws are made, the CPU besides.

    Attributes:
        shares: This process's share of each batch of a step.
    """

    shares: Sequence[Share]

    def __init__(self, seed: int, rank: int, count: int, device: torch.device) -> None:
        self.seed, self.rank, self.count = seed, rank, count
        self.default = {"cpu": torch.default_generator}
        if device.type == "cuda":
            here = torch.cuda.current_device() if device.index is None else device.index
            self.default["cuda"] = torch.cuda.default_generators[here]
        self.common = {kind: torch.Generator(g.device) for kind, g in self.default.items()}

    def loss(
        self,
        objective: Objective,
        model: Callable[[Batch], Any],
        guide: Callable[[Batch], Any],
        batches: tuple[Batch, ...],
        key: tuple[int, ...],
    ) -> LossByPart:
        """This process's share of the loss; those of all processes add up to the whole.

        Args:
            objective: The objective.
            model: The model.
            guide: The guide.
            batches: This process's rows, one batch of each kind.
            key: What tells this evaluation from others of the run.

        Returns:
            The loss in nats, for all rows that the batches stand for, by the names of its parts.
        """
        if self.count == 1:
            return objective.loss_by_part(model, guide, batches)
        losses, runs = [], []
        with self.own(*key):
            for batch, share in zip(batches, self.shares, strict=True):
                run = objective.run(model, guide, batch, AllRows(share))
                with self.sites(share):
                    loss = objective.loss_of_kind(run)
                losses.append(loss.times(share.weight))
                runs.append(run)
            # Every process looks at all rows here, and so each counts for its part.
            across = parts_of(objective, "across", runs)
        return functools.reduce(LossByPart.plus, losses).plus_scalars(across, 1 / self.count)

    def prepared(
        self,
        prepare: Callable[[Batch], Batch],
        batches: tuple[Batch, ...],
        key: tuple[int, ...],
    ) -> tuple[Batch, ...]:
        """What a stage makes of its batches; draws have their rows in the first dimension."""
        if self.count == 1:
            return tuple(prepare(batch) for batch in batches)
        made = []
        with self.own(*key):
            for batch, share in zip(batches, self.shares, strict=True):
                with self.rows(share):
                    made.append(prepare(batch))
        return tuple(made)

    @contextlib.contextmanager
    def again(self, place: int, *key: int) -> Iterator[None]:
        """Draws as in :meth:`loss`, of the batch at a place among those of the step."""
        if self.count == 1:
            yield
            return
        with self.own(*key), self.sites(self.shares[place]):
            yield

    @contextlib.contextmanager
    def turn(self, *key: int) -> Iterator[None]:
        """A player's stream in place of the run's, which is then where it was.

        It is a function of the run's seed and the key alone, the same in all processes: no
        checkpoint has to hold it, and no other side sees that it was drawn from.

        Args:
            key: Stage, step, place of the player and its turn.
        """
        start = generator(self.seed, TURN, *key).initial_seed()
        before = {kind: default.get_state() for kind, default in self.default.items()}
        for default in self.default.values():
            default.manual_seed(start)
        try:
            yield
        finally:
            for kind, default in self.default.items():
                default.set_state(before[kind])

    @contextlib.contextmanager
    def own(self, *key: int) -> Iterator[None]:
        """Draw from the own stream of a key, except where the common one is due.

        Args:
            key: What tells the moments of a run apart, numbers of at least 0.
        """
        start = generator(self.seed, PROCESS, *key, self.rank).initial_seed()
        for kind, default in self.default.items():
            self.common[kind].set_state(default.get_state())
            default.manual_seed(start)
        try:
            yield
        finally:
            for kind, default in self.default.items():
                default.set_state(self.common[kind].get_state())

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Inside :meth:`own`: draw from the common stream."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for kind, default in self.default.items():
            state = default.get_state()
            default.set_state(self.common[kind].get_state())
            self.common[kind].set_state(state)

    def sites(self, share: Share) -> Messenger:
        """Inside :meth:`own`: what the sites of a pair on these rows draw."""
        return _Sites(self, share)

    def rows(self, share: Share, dim: int = 0) -> TorchDispatchMode:
        """Inside :meth:`own`: noise has its rows in a dimension, counted from the left."""
        return _Rows(self.common, share, dim)


class _Sites(Messenger):
    def __init__(self, draws: Draws, share: Share) -> None:
        super().__init__()
        self.draws, self.share = draws, share

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or is_plate(msg):
            return
        fn = msg["fn"]
        if not is_local(msg):
            context: Any = self.draws.shared()
        elif fn.batch_shape[-1:] == (self.share.count,):
            # Whatever wraps the noise (events, transforms, particles), its batch dimensions
            # come first, and the data plate is the last of them.
            context = self.draws.rows(self.share, len(fn.batch_shape) - 1)
        else:
            return
        with context:
            msg["value"] = fn(*msg["args"], **msg["kwargs"])
        msg["done"] = True


class _Rows(TorchDispatchMode):
    """Noise with the share's rows in a dimension is drawn for the whole batch and cut."""

    def __init__(self, common: dict[str, torch.Generator], share: Share, dim: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.common, self.share, self.dim = common, share, dim

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = func.overloadpacket
        if kind in FILLS and self._has_rows(args[0].shape):
            return args[0].copy_(self._cut(kind, args[0], *args[1:], **kwargs))
        if func is aten.normal.Tensor_Tensor and self._has_rows(args[0].shape):
            loc, scale = args
            return loc + scale * self._cut(aten.normal_, loc)
        if kind in MAKES and self._has_rows(args[0]):
            like = torch.empty((), dtype=kwargs.get("dtype"), device=kwargs.get("device"))
            return self._cut(MAKES[kind], like.expand(args[0])).clone()
        if kind in LIKES and self._has_rows(args[0].shape):
            like = args[0].to(dtype=kwargs.get("dtype"), device=kwargs.get("device"))
            return self._cut(LIKES[kind], like).clone()
        return func(*args, **kwargs)

    def _has_rows(self, shape: Any) -> bool:
        return len(shape) > self.dim and shape[self.dim] == self.share.count

    def _cut(self, fill: Any, like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shape = list(like.shape)
        shape[self.dim] = self.share.of
        whole = like.new_empty(shape)
        fill(whole, *args, **{**kwargs, "generator": self.common[whole.device.type]})
        return whole.narrow(self.dim, self.share.start, self.share.count)
