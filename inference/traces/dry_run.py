"""A pair run on tensors without values: which labels are summed jointly, before any is formed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ppl_models.inference.traces.contraction import Dims, Summed
from ppl_models.inference.traces.sites import UnhandledSite, is_enumerated, latent_sites
from ppl_models.inference.traces.weights import Weights, too_many


class LargeGridError(Exception):
    """Labels were met that have more combinations together than one tensor may have."""


@dataclass(frozen=True)
class Survey:
    """What a run would form.

    Attributes:
        labels: The enumerated sites.
        largest: Those on which the largest term depends.
        draws: The labels that each of the guide's draws depends on, by site name.
    """

    labels: tuple[Summed, ...]
    largest: tuple[Summed, ...]
    draws: Mapping[str, Dims]


# By guide, then by what a run depends on; None where an ordinary run met no large grid.
_known: WeakKeyDictionary[Any, dict[Hashable, Survey | None]] = WeakKeyDictionary()


def survey(guide: Any, key: Hashable, evaluate: Callable[[], Weights]) -> Survey:
    """Run on tensors that have shapes and no values; answered from the first time by key.

    No random number is used and no memory taken, whatever the number of labels.

    Args:
        guide: The guide, whose surveys are kept as long as it lives.
        key: What else the run depends on.
        evaluate: The run.

    Raises:
        UnhandledSite: If the pair cannot run so.
    """
    known = _known.setdefault(guide, {})
    found = known.get(key)
    if found is None:
        found = known[key] = _look(evaluate)
    return found


def evaluate_within(
    guide: Any, key: Hashable, cap: int, device: torch.device, evaluate: Callable[[float], Weights]
) -> Weights:
    """Run, but refuse to form a joint grid of labels larger than a cap.

    Labels with at most ``cap`` combinations run straight away. More of them are surveyed once:
    a chain of labels is summed out however long it is, labels that all feed one network are not.

    Args:
        guide: The guide.
        key: What else the run depends on.
        cap: The cap.
        device: Where the random numbers are.
        evaluate: The run, given the number of combinations at which it raises LargeGridError.

    Raises:
        UnhandledSite: Naming the sites and the cap.
    """
    known = _known.setdefault(guide, {})
    if key not in known:
        states = _random_states(device)
        try:
            weights = evaluate(cap)
        except LargeGridError:
            survey(guide, key, lambda: evaluate(math.inf))
            # The broken run may have drawn: a resumed training must see the same numbers.
            _set_random_states(device, states)
        else:
            known[key] = None
            return weights
    found = known[key]
    if found is None:
        return evaluate(cap)
    if math.prod(label.size for label in found.largest) > cap:
        raise too_many(found.largest, cap)
    return evaluate(math.inf)


def _look(evaluate: Callable[[], Weights]) -> Survey:
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of captured tensors that are no leaves
            weights = evaluate()
    except UnhandledSite:
        raise
    except Exception as error:
        raise UnhandledSite(
            "whether labels are summed jointly cannot be told, because the pair does not run on "
            f"tensors without values ({type(error).__name__}: {error}); raise combinations= to "
            "skip the question"
        ) from error
    labels = weights.labels
    terms = [term for kind in weights.terms.values() for term in kind]
    largest = max(
        (term.labels for term in terms),
        key=lambda dims: math.prod(labels[d].size for d in dims),
        default=frozenset[int](),
    )
    draws = {}
    for name, site in latent_sites(weights.guide):
        if not is_enumerated(site):
            shape = site["value"].shape[: site["value"].dim() - site["fn"].event_dim]
            draws[name] = frozenset(d for d in labels if len(shape) >= -d and shape[d] > 1)
    return Survey(tuple(labels.values()), tuple(labels[d] for d in sorted(largest)), draws)


def _random_states(device: torch.device) -> tuple[Tensor, ...]:
    states = (torch.get_rng_state(),)
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


def _set_random_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
