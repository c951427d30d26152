"""Labels that teach the means of a guide's factors, and are no sites of the story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.distributions import constraints
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
        span: Each label is then divided by it, above 0.

    Raises:
        ValueError: If there is not one of these numbers for each label, or a span is none.
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
        if not all(number > 0 for number in span):
            raise ValueError(f"span is {tuple(span)}, expected numbers above 0")
        self.loss = LOSS[loss]
        self.sites = tuple(zip(sites, sites.values(), low, span, strict=True))

    @property
    def supports(self) -> dict[str, tuple[constraints.Constraint, str]]:
        """What labels may be, and for what, for :attr:`ppl_models.Pair.supports`.

        Any numbers for a squared error; for cross-entropy from ``low`` to ``low + span``, and half
        a span beyond either end, where noise may carry them.
        """
        if self.loss is LOSS["l2"]:
            return {label: (constraints.real, "a squared error") for label, *_ in self.sites}
        return {
            label: (
                constraints.interval(low - span / 2, low + 1.5 * span),
                f"a cross-entropy with low {low:g} and span {span:g}",
            )
            for label, _, low, span in self.sites
        }

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
