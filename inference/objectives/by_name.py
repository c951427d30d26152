"""Objectives from text, for the command line: ``iwelbo(particles=8, lam=0.5)``."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from ppl_models.config import unknown
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.characteristic import CharacteristicELBO
from ppl_models.inference.objectives.elbo import ELBO, EnumeratedELBO
from ppl_models.inference.objectives.iwelbo import IWELBO
from ppl_models.inference.objectives.relaxed import RelaxedELBO
from ppl_models.inference.objectives.renyi import Renyi
from ppl_models.inference.objectives.schedule import Anneal
from ppl_models.inference.objectives.score_function import ScoreELBO
from ppl_models.inference.objectives.self_normalised import SelfNormalisedELBO
from ppl_models.inference.objectives.tmc import TMC
from ppl_models.inference.objectives.wake_sleep import WakeSleep

BOUNDS: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "enumerated": EnumeratedELBO,
    "iwelbo": IWELBO,
    "tmc": TMC,
    "renyi": Renyi,
    "wake_sleep": WakeSleep,
    "self_normalised": SelfNormalisedELBO,
    "characteristic": CharacteristicELBO,
    "score": ScoreELBO,
    "relaxed": RelaxedELBO,
}


def parse_objective(text: str) -> Objective:
    """A bound from its name and options.

    Args:
        text: A name in ``BOUNDS``, e.g. ``elbo`` or ``wake_sleep``, optionally with options in
            parentheses; words need no quotes, e.g. ``iwelbo(particles=8, grad=dreg)``, and
            numbers that change are written ``anneal(first, last, start, end)``.

    Raises:
        ValueError: Naming the unknown bound or option, with the nearest known one.
    """
    form = f"objective {text!r} is not of the form name or name(option=value, ...)"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(form) from None
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    if not isinstance(call.func, ast.Name):
        raise ValueError(form)
    name = call.func.id.lower()
    if name not in BOUNDS:
        raise ValueError(unknown("objective", name, BOUNDS))
    if call.args:
        part = ast.unparse(call.args[0])
        raise ValueError(f"objective {text!r}: expected option=value, got {part!r}")
    options: dict[str, Any] = {}
    known = list(inspect.signature(BOUNDS[name]).parameters)
    for option in call.keywords:
        if option.arg not in known:
            raise ValueError(unknown(f"option of {name}", option.arg, known))
        options[option.arg] = _value(option.value)
    try:
        return BOUNDS[name](**options)
    except TypeError as error:
        raise ValueError(f"objective {text!r}: {error}") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "").lower() == "anneal":
        return Anneal(*(_value(number) for number in node.args))
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
