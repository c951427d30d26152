"""How stories of sets begin and train: sets drawn anew, KL terms that count little at first."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_models import data, inference


def growing(like: Tensor, rows: int, most: int) -> dict[str, Tensor]:
    """Which elements there are in sets of one element, of two, and so on.

    Args:
        like: Of the device and type.
        rows: Sets.
        most: Elements of the largest.
    """
    places = torch.arange(most)
    return {"x_there": (places <= torch.arange(rows)[:, None] % most).to(like)}


def rising(end: float) -> inference.ELBO:
    """The bound, whose KL terms weigh 1/9 at first and 1 from a share of training on.

    Args:
        end: The share.
    """
    return inference.ELBO(kl="analytic", beta=inference.Anneal(1 / 9, 1, 0, end) if end else 1.0)


def stages(
    objective: inference.Objective, subset: int, likelihood: str
) -> tuple[inference.Stage, ...]:
    """The one stage of the papers, with sets drawn anew in each batch where asked for.

    Args:
        objective: What is made large.
        subset: Elements of a row that a batch draws; 0 for all, as they are.
        likelihood: Of an element; of ``"bernoulli"`` grey values are drawn as 0 or 1.
    """
    binary = likelihood == "bernoulli"
    prepare = data.drawn_sets("x", subset, binary=binary) if subset else None
    training = inference.Training(learning_rate=2e-4, batch_size=16)
    return (inference.Stage(objective, prepare=prepare, training=training),)
