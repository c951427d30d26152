"""What a classifier of images makes of a cause: by counterfactuals of any pair that has them.

A row is compared with what it would have been had one cause had another value, all chance being
what it was. What is compared with is the row as the pair makes it, with all causes as they are,
and never the row itself: an error of reconstruction would count as bias (Dash, Balasubramanian and
Sharma 2022, arXiv 2009.08270). The *total* effect of a cause lets what depends on it follow; the
*direct* one holds all other causes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.inference.objectives.base import check_choice
from ppl_models.set_sites import is_soft, model_sites, set_to

if TYPE_CHECKING:
    from ppl_models.pair import Pair

Effect = Literal["total", "direct"]
Classifier = Callable[[Tensor], Tensor]  # images (N, D) to the logit of class 1, (N,) or (N, 1)


@dataclass(frozen=True)
class CounterfactualBias:
    """How a classifier's answers change with a cause.

    Attributes:
        flips: Share of rows whose class changes.
        up: Share of rows that change from class 0 to class 1.
        down: Share of rows that change from class 1 to class 0.
        change: Mean change of the probability of class 1, the importance of the cause.
    """

    flips: float
    up: float
    down: float
    change: float

    @property
    def bias(self) -> float:
        """Net share of the rows that change to class 1, -1 to 1; 0 is fair on the whole."""
        return self.up - self.down


def counterfactual_images(
    pair: Pair,
    batch: Batch,
    do: Mapping[str, Any],
    *,
    effect: Effect = "total",
    image: str = "x",
    draws: int = 1,
) -> tuple[Tensor, Tensor]:
    """Rows as the pair makes them, and as they would have been, with the same noise.

    Args:
        pair: The pair; its card says its causes.
        batch: The rows, with all causes.
        do: Values by cause, as of :meth:`ppl_models.Pair.counterfactual`.
        effect: ``total``, or ``direct``: all other causes stay as they are.
        image: The site that a classifier sees.
        draws: Draws S of the noise that the guide tells.

    Returns:
        Two tensors ``(S, B, D)``; equal to the bit where the causes are set to what they are, and
        but for rounding where a callable gives their own distributions.

    Raises:
        ValueError: If a site of ``do`` is no cause of the pair, the rows lack a cause that is to
            stay, or there is no such effect.
    """
    check_choice("effect", effect, get_args(Effect))
    causes = pair.card.causes
    for name in do:
        if name not in causes:
            raise ValueError(unknown(f"cause of {pair.card.name}", name, causes))
    held = causes if effect == "direct" else tuple(do)
    if lacking := [name for name in held if name not in batch]:
        raise ValueError(f"the batch lacks the cause {lacking[0]!r}; it has {sorted(batch)}")
    # What is drawn is drawn once, before the noise of both worlds; a site that changes softly
    # keeps its noise in both.
    drawn = {name: value for name, value in do.items() if isinstance(value, Distribution)}
    with torch.no_grad():
        hard, _ = set_to(pair, batch, drawn, draws, model_sites(pair, batch) if drawn else {})
    do = {**do, **hard}
    as_it_is = {n: _unchanged if n in do and is_soft(do[n]) else batch[n] for n in held}
    seed = int(torch.randint(2**31, ()))  # of both: they are made of the same noise
    found = []
    for values in (as_it_is, {**as_it_is, **do}):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(pair.counterfactual(batch, draws=draws, **values)[image])
    return found[0], found[1]


@torch.no_grad()
def counterfactual_bias(
    classifier: Classifier,
    pair: Pair,
    batch: Batch,
    do: Mapping[str, Any],
    *,
    effect: Effect = "total",
    image: str = "x",
    draws: int = 1,
) -> CounterfactualBias:
    """Whether a binary classifier's answers change with a cause.

    Args:
        classifier: From images ``(N, D)``, flat as a table has them, to the logit of class 1,
            ``(N,)`` or ``(N, 1)``; in evaluation mode.
        pair: As of :func:`counterfactual_images`, as are the others.
        batch: The rows.
        do: Values by cause.
        effect: ``total`` or ``direct``.
        image: The site that the classifier sees.
        draws: Draws of the noise; shares are of rows and draws.

    Raises:
        ValueError: As :func:`counterfactual_images`, and if the classifier gives another shape.
    """
    made, changed = counterfactual_images(pair, batch, do, effect=effect, image=image, draws=draws)
    before, after = (_logits(classifier, x.flatten(0, 1)) for x in (made, changed))
    up, down = ((before <= 0) & (after > 0)), ((before > 0) & (after <= 0))
    flips, rises, falls = (float(v.double().mean()) for v in (up | down, up, down))
    change = float((after.sigmoid() - before.sigmoid()).mean())
    return CounterfactualBias(flips, rises, falls, change)


def logit_difference(classifier: Classifier, made: Tensor, changed: Tensor) -> Tensor:
    """How far a classifier's logits are apart on rows and their counterfactuals, squared.

    A term of your own training loss, ``cross_entropy + weight * logit_difference(...)``, by which
    the classifier forgets a cause that should not matter.

    Args:
        classifier: As of :func:`counterfactual_bias`.
        made: Images ``(..., D)`` of :func:`counterfactual_images`, the first.
        changed: The second.

    Returns:
        The mean over all rows, with its gradient.
    """
    first, second = (_logits(classifier, x.flatten(0, -2)) for x in (made, changed))
    return (first - second).square().mean()


def _unchanged(fn: Any) -> Any:
    return fn


def _logits(classifier: Classifier, images: Tensor) -> Tensor:
    logits = classifier(images)
    if logits.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(
            f"the classifier gives shape {tuple(logits.shape)}, expected one logit per row, "
            f"({len(images)},) or ({len(images)}, 1)"
        )
    return logits.reshape(-1)
