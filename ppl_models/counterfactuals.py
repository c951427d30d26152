"""What rows would have been had some sites had other values, all chance being what it was.

Abduction, action, prediction (Pearl, Causality, 2009, section 7.1): the guide and the model tell
the noise behind every site of the rows as they are; some sites are set; the same noise leads to
what depends on them. See :mod:`ppl_models.exogenous` for what the noise of a site is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import whole
from ppl_models.exogenous import noise_family, noise_of, value_at
from ppl_models.sample_sites import Refused, base_of, is_delta
from ppl_models.set_sites import (
    Changed,
    Sites,
    Soft,
    descendants,
    evaluated,
    inferred,
    model_sites,
    over_draws,
    parents_of,
    set_to,
    sites_at,
)

if TYPE_CHECKING:
    from ppl_models.pair import Pair


def counterfactual(
    pair: Pair, batch: Batch, values: Mapping[str, Any], draws: int | None = None
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.counterfactual`."""
    if draws is not None:
        draws = whole("draws", draws, 1)
    with evaluated(pair):
        like = model_sites(pair, batch)
        parents = parents_of(pair, batch, values, like)
        hard, soft = set_to(pair, batch, values, draws, like)
        moved = descendants(parents, set(values)) | set(soft)
        _check_noise(like, moved)

        def run(rows: Batch, here: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return _counterfactual(pair, rows, here, soft, moved, parents, like)

        # A callable may hold what has a value for each row: it sees the rows of one draw.
        return over_draws(batch, draws, run, like, hard, apart=bool(soft))


def _check_noise(like: Sites, moved: Collection[str]) -> None:
    for name, site in like.items():
        if name in moved and noise_family(site["fn"]) is None:
            raise ValueError(
                f"site {name!r} would move, and the noise behind a value of "
                f"{type(base_of(site['fn'])).__name__} cannot be told; expected a distribution "
                "that carries a noise to its values (docs/causal.md lists them), or intervene, "
                "which draws it anew"
            )


def _counterfactual(
    pair: Pair,
    batch: Batch,
    hard: Mapping[str, Tensor],
    soft: Mapping[str, Soft],
    moved: Collection[str],
    parents: Mapping[str, Sequence[str]],
    like: Sites,
) -> dict[str, Tensor]:
    """The same for one draw, or for draws that stand in the batch as rows."""
    known = {n: v for n, v in inferred(pair, batch).items() if n in parents} | dict(batch)
    for name in parents:
        seen = [n for n, given in parents.items() if name in given and n in known]
        if name not in known and seen:
            raise ValueError(
                f"site {name!r} is not sampled by the guide, and {seen} depend on it; put it into "
                "the batch"
            )
    factual = sites_at(pair, batch, known, like)
    noise = {name: factual[name] for name in moved}
    stay = {name: site["value"] for name, site in factual.items()} | dict(batch)
    kept = {name: value for name, value in stay.items() if name not in moved} | dict(hard)
    with _Pushed(noise), Changed(soft):
        found = sites_at(pair, batch, kept, like)
    return {name: site["value"] for name, site in found.items()}


class _Pushed(Messenger):
    """Sites take the values that their noises lead to under their distributions here.

    Args:
        factual: The sites as they are, by name.
    """

    def __init__(self, factual: Sites) -> None:
        super().__init__()
        self.factual = factual

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.factual:
            return
        was = self.factual[name]["fn"]
        families = noise_family(was), noise_family(fn)
        if not is_delta(fn) and families[0] is not families[1]:
            was_of, is_of = ("none" if f is None else f.__name__ for f in families)
            raise Refused(
                f"site {name!r} keeps its noise, which is {was_of}, and is given a distribution "
                f"whose noise is {is_of}; expected one of the same noise, or a Delta"
            )
        noise = noise_of(was, self.factual[name]["value"])
        msg["value"] = value_at(fn, noise).expand(fn.batch_shape + fn.event_shape)
        msg["done"] = True
