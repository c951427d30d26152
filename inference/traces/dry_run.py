"""A pair run on tensors without values: which labels are summed jointly, before any is formed."""

from __future__ import annotations

import contextlib
import logging
import math
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ppl_models.inference.traces.contraction import Dims, Summed, check_count, told
from ppl_models.inference.traces.sites import UnhandledSite, is_enumerated, latent_sites
from ppl_models.inference.traces.weights import Weights
from ppl_models.quiet import kept_buffers, unmoved


class LargeGridError(Exception):
    """Labels were met that have more combinations together than one tensor may have.

    Attributes:
        met: They, and sites whose draws are combined like labels.
    """

    def __init__(self, met: Sequence[Summed]) -> None:
        super().__init__()
        self.met = met


class Unrun(UnhandledSite):
    """A pair does not run on tensors without values."""


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


Surveys = dict[Hashable, Survey | None]  # None where an ordinary run met no large grid

# By the address of a guide's owner, as long as that lives, and by the function of a method.
_known: dict[int, tuple[weakref.ref[Any], dict[Any, Surveys]]] = {}


def _surveys(guide: Any) -> Surveys:
    """What is known of a guide.

    A method is made anew each time that it is read: it is known by the object that it is bound
    to, and its function.
    """
    bound = isinstance(guide, types.MethodType)
    owner, function = (guide.__self__, guide.__func__) if bound else (guide, None)
    place = id(owner)
    if place not in _known:
        try:
            alive = weakref.ref(owner, lambda _: _known.pop(place, None))
        except TypeError:  # nothing tells when it goes, and its address is given again
            return {}
        _known[place] = alive, {}
    return _known[place][1].setdefault(function, {})


def survey(model: Any, guide: Any, key: Hashable, evaluate: Callable[[], Weights]) -> Survey:
    """Run on tensors that have shapes and no values; answered from the first time by key.

    No random number is used, no buffer moved and no memory taken, whatever the number of labels.

    Args:
        model: The model.
        guide: The guide, whose surveys are kept as long as it lives.
        key: What else the run depends on.
        evaluate: The run.

    Raises:
        Unrun: If the pair cannot run so.
        LargeGridError: If the run ends at draws that have too many combinations.
    """
    known = _surveys(guide)
    found = known.get(key)
    if found is None:
        with unmoved(model, guide):
            found = known[key] = _look(evaluate)
    return found


def evaluate_within(
    model: Any,
    guide: Any,
    key: Hashable,
    cap: int,
    device: torch.device,
    evaluate: Callable[[float, bool], Weights],
) -> Weights:
    """Run, but refuse to form a joint grid of labels larger than a cap.

    Labels with at most ``cap`` combinations run straight away. More of them are surveyed once:
    a chain of labels is summed out however long it is, labels that all feed one network are not.
    Draws that are combined in every way count as labels do.

    Args:
        model: The model.
        guide: The guide.
        key: What else the run depends on.
        cap: The cap.
        device: Where the random numbers are.
        evaluate: The run, given the number of combinations at which it raises LargeGridError,
            and whether it is a survey.

    Raises:
        UnhandledSite: Naming the sites and the cap.
    """
    known = _surveys(guide)
    if key not in known:
        states, put_back = _random_states(device), kept_buffers(model, guide)
        try:
            weights = evaluate(cap, False)
        except LargeGridError as large:
            # The broken run may have drawn: a resumed training must see the same numbers.
            put_back()
            try:
                survey(model, guide, key, lambda: evaluate(math.inf, True))
            except LargeGridError as met:
                check_count(met.met, cap)
            except Unrun as error:
                raise UnhandledSite(f"{told(large.met)}; {error}") from error
            finally:
                _set_random_states(device, states)
        else:
            known[key] = None
            return weights
    found = known[key]
    if found is None:
        return evaluate(cap, False)
    check_count(found.largest, cap)
    return evaluate(math.inf, False)


def _look(evaluate: Callable[[], Weights]) -> Survey:
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
            _unlogged("torch._subclasses.fake_tensor"),
        ):
            warnings.simplefilter("ignore")  # of captured tensors that are no leaves
            weights = evaluate()
    except (UnhandledSite, LargeGridError):
        raise
    except Exception as error:
        why = (str(error).splitlines() or [""])[0]
        raise Unrun(
            "whether they are summed jointly cannot be told, because the pair does not run on "
            f"tensors without values ({type(error).__name__}: {why}); sum or draw fewer, or raise "
            "combinations= to skip the question"
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


@contextlib.contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Torch logs the traceback of what cannot be, such as a tensor of 8^36 entries."""
    logger = logging.getLogger(name)

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _random_states(device: torch.device) -> tuple[Tensor, ...]:
    states = (torch.get_rng_state(),)
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


def _set_random_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
