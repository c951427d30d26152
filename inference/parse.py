"""Objectives from text, for the command line: ``iwelbo(particles=8, lam=0.5)``."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from ppl_models.config import unknown
from ppl_models.inference.elbo import ELBO, EnumeratedELBO
from ppl_models.inference.iwelbo import IWELBO
from ppl_models.inference.objectives import Objective
from ppl_models.inference.relaxed import RelaxedELBO
from ppl_models.inference.renyi import Renyi
from ppl_models.inference.score import ScoreELBO
from ppl_models.inference.self_normalised import SelfNormalisedELBO
from ppl_models.inference.tmc import TMC
from ppl_models.inference.wake_sleep import WakeSleep

BOUNDS: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "enumerated": EnumeratedELBO,
    "iwelbo": IWELBO,
    "tmc": TMC,
    "renyi": Renyi,
    "wake_sleep": WakeSleep,
    "self_normalised": SelfNormalisedELBO,
    "score": ScoreELBO,
    "relaxed": RelaxedELBO,
}


def parse_objective(text: str) -> Objective:
    """A bound from its name and options.

    Args:
        text: A name in ``BOUNDS``, e.g. ``elbo`` or ``wake_sleep``, optionally with options in
            parentheses; words need no quotes, e.g. ``iwelbo(particles=8, grad=dreg)``.

    Raises:
        ValueError: Naming the unknown bound or option, with the nearest known one.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    if match is None:
        raise ValueError(f"objective {text!r} is not of the form name or name(option=value, ...)")
    name, inside = match[1].lower(), match[2] or ""
    if name not in BOUNDS:
        raise ValueError(unknown("objective", name, BOUNDS))
    options: dict[str, Any] = {}
    known = list(inspect.signature(BOUNDS[name]).parameters)
    for part in filter(None, (p.strip() for p in inside.split(","))):
        key, found, value = (p.strip() for p in part.partition("="))
        if not found:
            raise ValueError(f"objective {text!r}: expected option=value, got {part!r}")
        if key not in known:
            raise ValueError(unknown(f"option of {name}", key, known))
        options[key] = _value(value)
    try:
        return BOUNDS[name](**options)
    except TypeError as error:
        raise ValueError(f"objective {text!r}: {error}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
