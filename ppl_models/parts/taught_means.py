"""Labels that teach the means of a guide's factors, and are no sites of the story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.traces.evaluation import Evaluation

LOSS: dict[str, Callable[..., Tensor]] = {
    "ce": functional.binary_cross_entropy_with_logits,
    "l2": functional.mse_loss,
}
LOSSES = tuple(LOSS)


class TaughtMeans:
    """The loss of the means of scalar codes at labels, on average over the labels.

    Over the data it comes to the mean over the rows that have the label, however few these are.

    Args:
        sites: Sites of the guide by site of the label.
        loss: ``"ce"``, cross-entropy of the mean as a logit, or ``"l2"``, squared error.
        low: Subtracted from each label.
        span: Each label is then divided by it.

    Raises:
        ValueError: If there is not one of these numbers for each label.
    """

    def __init__(
        self, sites: Mapping[str, str], loss: str, low: Sequence[float], span: Sequence[float]
    ) -> None:
        for name, numbers in (("low", low), ("span", span)):
            if len(numbers) != len(sites):
                raise ValueError(
                    f"{name} has {len(numbers)} numbers, expected {len(sites)}, one for each of "
                    f"{', '.join(sites)}"
                )
        self.loss = LOSS[loss]
        self.sites = tuple(zip(sites, sites.values(), low, span, strict=True))

    def __call__(self, run: Evaluation) -> Tensor:
        """The loss per row ``(B,)``; a label is one number ``(B,)``, or ``(B, 1)`` of a column."""
        batch, total = run.batch, zero_loss(run)
        for label, site, low, span in self.sites:
            if label in batch:
                codes = run.codes(site)
                mean = codes.mean(codes.by_draw(codes.q.mean))
                share = batch.total / batch.observed[label] / len(self.sites)
                target = (batch[label].reshape(mean.shape) - low) / span
                total = total + share * self.loss(mean, target, reduction="none")
        return total
