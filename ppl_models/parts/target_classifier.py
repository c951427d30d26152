"""Which variables were set, as told from latents of each block: a game (CITRIS).

A classifier reads the latents before and those of one block after, and tells the targets of all
variables; it is trained to tell them as well as it can. The latents are trained so that those of
a block say all of the target of their own variable, and of the others' targets no more than their
own target does.

Shapes: K variables, K + 2 masks (block 0, each block, all latents), S draws, B rows, M latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.batch import Batch
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.penalty import Penalty
from ppl_models.inference.objectives.stage import Player, Stage, Training
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.networks import Net
from ppl_models.parts.frames import Frames
from ppl_models.parts.intervened_latents import Blocks

KINDS = ("conditional", "marginal")
NOISE = "gumbel"  # of the blocks that are drawn for a step, as a site of its batch
Code = Callable[[Batch], Tensor]  # latents before, (B, M)


def target_classifier(
    blocks: Blocks,
    code: Code,
    hidden: Sequence[int] = (64,),
    weight: float = 2.0,
    told: str = "conditional",
    learning_rate: float = 4e-3,
) -> tuple[Told, Player]:
    """The latents' term beside a bound, and the classifier's player.

    The stage has ``start=blocks.count`` and ``prepare=Noise(blocks)`` besides, and the guide a
    site ``z_next`` in the plate over latents.

    Args:
        blocks: The blocks of latents.
        code: Latents before the step, of a batch.
        hidden: Units of the classifier's hidden layers.
        weight: Of the term.
        told: What latents of a block may say of another variable's target: what the target of
            their own says of it, or no more than how often it is set.
        learning_rate: Of the classifier.
    """
    size, kinds = blocks.logits.shape
    given = {"z": size, "z_next": size, "mask": size}
    classifier = Net(given, hidden, kinds - 1, "silu").to(blocks.logits)

    player = Player(
        "classifier",
        Told(classifier, partial(_of_classifier, classifier, blocks, code)),
        classifier,
        learning_rate=learning_rate,
        weight_decay=1e-4,
    )
    return Told(classifier, partial(_of_latents, classifier, blocks, code, told), weight), player


def _of_latents(
    classifier: nn.Module, blocks: Blocks, code: Code, told: str, run: Evaluation
) -> Tensor:
    """What the latents of a block say too much or too little, per row."""
    z, z_next, masks, targets = looked_at(blocks, code, run)
    logits = classifier(z=z, z_next=masks.unsqueeze(1) * z_next, mask=masks.unsqueeze(1))
    return weighted(logits, *labels(blocks, targets, told))


def _of_classifier(classifier: nn.Module, blocks: Blocks, code: Code, run: Evaluation) -> Tensor:
    """How badly the classifier tells the targets, per row."""
    z, z_next, masks, targets = (part.detach() for part in looked_at(blocks, code, run))
    logits = classifier(z=z, z_next=masks.unsqueeze(1) * z_next, mask=masks.unsqueeze(1))
    return weighted(logits, targets, torch.ones_like(targets))


class Told(Penalty):
    """A loss of what a classifier tells of targets.

    Args:
        classifier: The network.
        loss: From the run on a batch to ``(B,)``.
        weight: Its weight.
    """

    def __init__(
        self, classifier: nn.Module, loss: Callable[[Evaluation], Tensor], weight: float = 1.0
    ) -> None:
        super().__init__("targets", loss, weight)
        self.classifier = classifier

    @property
    def part_names(self) -> tuple[str, ...]:
        """``targets``."""
        return ("targets",)


def blocks_stage(
    frames: Frames, objective: Objective, config: Any, freeze: tuple[str, ...] = ()
) -> Stage:
    """The training of flow and blocks against the classifier, as the paper's code has it.

    Args:
        frames: What is trained.
        objective: Beside the targets' term.
        config: Has ``classifier``, ``target_weight`` and ``told``.
        freeze: What stays as it is.
    """
    term, player = target_classifier(
        frames.blocks, frames.code, config.classifier, config.target_weight, config.told
    )
    training = Training(
        batch_size=512, schedule="cosine(last=0.05)", warmup=100, clip_norm=1.0, epochs=100
    )
    return Stage(
        objective + term,
        start=frames.count,
        prepare=Noise(frames.blocks),
        players=(player,),
        freeze=freeze,
        training=training,
    )


class Noise:
    """Adds the noise of a step's blocks to its batch, for ``Stage(prepare=)``.

    Args:
        blocks: The blocks.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.shape = blocks.logits.shape

    def __call__(self, batch: Batch) -> Batch:
        """The batch with Gumbel noise ``(B, M, K + 1)``."""
        noise = torch.rand(batch.count, *self.shape, dtype=batch["targets"].dtype)
        noise = -(-noise.clamp(1e-6, 1 - 1e-6).log()).log()
        return batch.replace({**batch, NOISE: noise.to(batch.rows.device)})


def looked_at(
    blocks: Blocks, code: Code, run: Evaluation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents before ``(B, M)`` and after ``(S, B, M)``, masks ``(K + 2, B, M)``, targets."""
    size = len(blocks.logits)
    z_next = run.drawn.draws["z_next"].reshape(-1, size, run.batch.count)
    masks = blocks.masks(run.batch[NOISE])
    return code(run.batch), z_next.transpose(-1, -2), masks, run.batch["targets"]


def labels(blocks: Blocks, targets: Tensor, told: str = "conditional") -> tuple[Tensor, Tensor]:
    """What latents of each mask should tell ``(K + 2, B, K)``, and how much each counts.

    Args:
        blocks: The blocks, which have counted targets.
        targets: ``(B, K)``.
        told: As of :func:`target_classifier`.
    """
    kinds = targets.shape[-1]
    own = torch.eye(kinds, dtype=targets.dtype, device=targets.device).unsqueeze(1)  # K x 1 x K
    mean = blocks.told[0, 0].expand(1, *targets.shape)
    others = mean
    if told == "conditional":
        was_set = targets.T.unsqueeze(-1)  # K x B x 1
        others = torch.where(was_set > 0, blocks.told[1, 1:, None], blocks.told[0, 1:, None])
    each = own * targets + (1 - own) * others
    every = targets.unsqueeze(0)
    weight = 1 + (kinds - 1) * own.expand(kinds, *targets.shape)
    ones = torch.ones_like(every)
    return torch.cat([mean, each, every]), torch.cat([ones, weight, kinds * ones])


def weighted(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropies of rows ``(B,)``: masks added up, means over variables and draws.

    Args:
        logits: ``(K + 2, S, B, K)``.
        wanted: Probabilities that broadcast to ``(K + 2, B, K)``.
        weight: Of each, likewise.
    """
    wanted, weight = (part.expand(len(logits), *part.shape[-2:]) for part in (wanted, weight))
    loss = functional.binary_cross_entropy_with_logits(
        logits, wanted.unsqueeze(1).expand_as(logits), reduction="none"
    )
    return (loss * weight.unsqueeze(1)).mean((1, 3)).sum(0)
