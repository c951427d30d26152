"""What can be told of codes or images from other rows: probes, and nearest class means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import at_least, unknown
from ppl_models.data.render.fewshot import episode

Representation = Callable[[Tensor], Tensor]  # of rows (n, ...), each by itself, numbers (n, F)
Similarity = Literal["cosine", "euclidean"]
Rows = tuple[Tensor, Tensor]  # numbers of the rows of both tables


def latent_accuracy(
    codes: Tensor,
    labels: Tensor,
    test_codes: Tensor,
    test_labels: Tensor,
    rows: Rows | None = None,
) -> float:
    """Share of test rows whose label a linear classifier of the codes tells.

    The classifier is a logistic regression of standardised codes, fitted on other rows (Joy et
    al. 2022, arXiv 2106.12570).
    :func:`ppl_models.inference.probe_accuracy` asks the same of one table by cross-validation.

    Args:
        codes: ``(N, K)`` of the rows that it is fitted on.
        labels: ``(N,)``.
        test_codes: ``(M, K)`` of other rows.
        test_labels: ``(M,)``.
        rows: Their numbers in one set, ``(N,)`` and ``(M,)``; refused where both have one.

    Raises:
        ValueError: If shapes do not fit, a row is in both tables, or labels are of one class.
    """
    _check("codes", codes, labels, test_codes, test_labels, rows)
    if len(classes := labels.unique()) < 2:
        raise ValueError(f"all labels are {int(classes[0])}, expected two classes or more")
    fitted = probe().fit(*(v.detach().cpu().numpy() for v in (codes.double(), labels)))
    told = torch.from_numpy(fitted.predict(test_codes.detach().cpu().double().numpy()))
    return float((told == test_labels.cpu()).double().mean())


def probe() -> Any:
    """The linear probe, not fitted yet: a logistic regression of standardised codes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def nearest_mean_accuracy(
    context: Tensor,
    labels: Tensor,
    targets: Tensor,
    target_labels: Tensor,
    representation: Representation | None = None,
    similarity: Similarity = "cosine",
    rows: Rows | None = None,
) -> float:
    """Share of targets whose nearest class mean is that of their own class.

    Generated images are judged by real ones so (``representation=blurred``): they are targets
    with the class of the rows that they were generated from, which are none of the context.

    Args:
        context: Rows ``(N, ...)`` whose means stand for the classes, such as images.
        labels: Their classes ``(N,)``.
        targets: Rows ``(M, ...)`` that are judged.
        target_labels: Their classes ``(M,)``, all of which the context has.
        representation: What is compared of rows, numbers ``(n, F)``; of each row by itself.
            Flattened rows if None.
        similarity: By cosine, or by Euclidean distance as in prototypical networks (Snell et al.
            2017).
        rows: Numbers in one set of the context's rows and of those that targets are, or were
            generated from; refused where both have one.

    Raises:
        ValueError: If shapes do not fit, a row is on both sides, or a target's class is not in
            the context.
    """
    _check("context", context, labels, targets, target_labels, rows)
    classes, codes = labels.unique(return_inverse=True)
    place = torch.searchsorted(classes, target_labels.to(classes).contiguous())
    place = place.clamp(max=len(classes) - 1)
    if not bool((there := classes[place] == target_labels.to(classes)).all()):
        raise ValueError(
            f"class {int(target_labels[~there.cpu()][0])} of the targets has no row in the context"
        )
    seen, asked = (_represented(v, representation) for v in (context, targets))
    if seen.shape[1] != asked.shape[1]:
        raise ValueError(
            f"rows of the context have {seen.shape[1]} numbers and targets {asked.shape[1]}, "
            "expected as many"
        )
    return float((_nearest(seen, codes, asked, similarity) == place).double().mean())


def few_shot_accuracy(
    images: Tensor,
    labels: Tensor,
    ways: int,
    shots: int,
    queries: int,
    episodes: int = 100,
    representation: Representation | None = None,
    similarity: Similarity = "cosine",
    seed: int = 0,
) -> tuple[float, float]:
    """N-way K-shot accuracy of the nearest class mean, over episodes with disjoint rows.

    Args:
        images: Images or codes ``(N, ...)``.
        labels: Their classes ``(N,)``.
        ways: Classes of an episode.
        shots: Rows of each class that its mean is of.
        queries: Other rows of each class that are asked for.
        episodes: Their number.
        representation: As of :func:`nearest_mean_accuracy`.
        similarity: As there.
        seed: Of the episodes.

    Returns:
        The mean over episodes, and its standard error.

    Raises:
        ValueError: If there are too few classes or rows.
    """
    at_least(ways=(ways, 2), shots=(shots, 1), queries=(queries, 1), episodes=(episodes, 2))
    _as_many("images", images, labels)
    seen = _represented(images, representation)
    kinds, draw = labels.cpu().numpy(), np.random.default_rng(seed)
    own = torch.arange(ways)
    found = torch.empty(episodes, dtype=torch.float64)
    for number in range(episodes):
        given, asked = (torch.from_numpy(v) for v in episode(kinds, ways, shots, queries, draw))
        told = _nearest(
            seen[given.flatten()],
            own.repeat_interleave(shots),
            seen[asked.flatten()],
            similarity,
        )
        found[number] = (told == own.repeat_interleave(queries)).double().mean()
    return float(found.mean()), float(found.std()) / math.sqrt(episodes)


def blurred(images: Tensor) -> Tensor:
    """Means over 3 x 3 pixels, with black around: a representation of images ``(n, H, W)``.

    Raises:
        ValueError: If they have another shape.
    """
    if images.dim() != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (n, H, W)")
    soft = torch.nn.functional.avg_pool2d(images.unsqueeze(1), 3, stride=1, padding=1)
    return soft.flatten(1)


def _represented(rows: Tensor, representation: Representation | None) -> Tensor:
    rows = rows.detach().cpu().double()
    found = rows.flatten(1) if representation is None else representation(rows)
    if found.dim() != 2 or len(found) != len(rows):
        raise ValueError(
            f"the representation of {len(rows)} rows has shape {tuple(found.shape)}, expected "
            f"({len(rows)}, F)"
        )
    return found


def _nearest(seen: Tensor, codes: Tensor, asked: Tensor, similarity: str) -> Tensor:
    """For each row that is asked for, the class with the nearest mean ``(M,)``."""
    if similarity not in ("cosine", "euclidean"):
        raise ValueError(unknown("similarity", similarity, ("cosine", "euclidean")))
    count = torch.bincount(codes.cpu()).to(seen)
    means = seen.new_zeros(len(count), seen.shape[1]).index_add_(0, codes.cpu(), seen)
    means = means / count.unsqueeze(1)
    if similarity == "cosine":
        means, asked = (torch.nn.functional.normalize(v, dim=1) for v in (means, asked))
        return (asked @ means.T).argmax(1)
    return torch.cdist(asked, means).argmin(1)


def _check(
    what: str, rows: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, at: Rows | None
) -> None:
    _as_many(what, rows, labels)
    _as_many("test codes" if what == "codes" else "targets", others, other_labels)
    if what == "codes" and rows.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"codes have shape {tuple(rows.shape)} and test codes {tuple(others.shape)}, expected "
            "(N, K) and (M, K)"
        )
    if at is None:
        return
    own, of_others = (torch.as_tensor(v).cpu() for v in at)
    if len(own) != len(rows):
        raise ValueError(f"rows has {len(own)} numbers for the {len(rows)} of {what}")
    if bool((shared := torch.isin(of_others, own)).any()):
        raise ValueError(
            f"row {int(of_others[shared][0])} is on both sides, expected rows that are apart"
        )


def _as_many(what: str, rows: Tensor, labels: Tensor) -> None:
    if labels.shape != rows.shape[:1] or not len(rows):
        raise ValueError(
            f"{what} have shape {tuple(rows.shape)} and labels {tuple(labels.shape)}, expected a "
            "label for each row, and at least one row"
        )
