"""Objectives from text, for the command line: ``iwelbo(particles=8) + 0.5 * classification(y)``.

The text is read as a syntax tree of names, options, sums and weights, and never evaluated.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ppl_models.config import unknown
from ppl_models.data.streams import image_steps, row_steps
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.blurred_error import BlurredError
from ppl_models.inference.objectives.characteristic import CharacteristicELBO
from ppl_models.inference.objectives.classification import Classification
from ppl_models.inference.objectives.code_terms.code_covariance import CodeCovariance
from ppl_models.inference.objectives.code_terms.distance_correlation import DistanceCorrelation
from ppl_models.inference.objectives.code_terms.hausdorff_support import (
    HausdorffSupport,
    SupportScale,
)
from ppl_models.inference.objectives.code_terms.total_correlation import TotalCorrelation
from ppl_models.inference.objectives.consistency import Consistency
from ppl_models.inference.objectives.elbo import ELBO, EnumeratedELBO
from ppl_models.inference.objectives.emphasis import Emphasis
from ppl_models.inference.objectives.iwelbo import IWELBO
from ppl_models.inference.objectives.kl_terms import Capacity, FreeBits
from ppl_models.inference.objectives.margins import Balance, Hat, Hinge
from ppl_models.inference.objectives.moved import Imputed, LeftOut
from ppl_models.inference.objectives.mutual_supervision import MutualSupervision
from ppl_models.inference.objectives.relaxed import RelaxedELBO
from ppl_models.inference.objectives.renyi import Renyi
from ppl_models.inference.objectives.schedule import Anneal
from ppl_models.inference.objectives.score_function import ScoreELBO
from ppl_models.inference.objectives.self_normalised import SelfNormalisedELBO
from ppl_models.inference.objectives.stratified import Stratified
from ppl_models.inference.objectives.subsets import Subsets
from ppl_models.inference.objectives.tmc import TMC
from ppl_models.inference.objectives.wake_sleep import WakeSleep
from ppl_models.inference.objectives.weighted import Weighted

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
    "stratified": Stratified,
    "mutual_supervision": MutualSupervision,
}
TERMS: dict[str, type[Objective]] = {
    "balance": Balance,
    "blurred_error": BlurredError,
    "capacity": Capacity,
    "classification": Classification,
    "code_covariance": CodeCovariance,
    "consistency": Consistency,
    "distance_correlation": DistanceCorrelation,
    "emphasis": Emphasis,
    "hat": Hat,
    "hausdorff_support": HausdorffSupport,
    "hinge": Hinge,
    "imputed": Imputed,
    "left_out": LeftOut,
    "subsets": Subsets,
    "support_scale": SupportScale,
    "total_correlation": TotalCorrelation,
    "weighted": Weighted,
}
VALUES: dict[str, type] = {
    "affine": image_steps.Affine,
    "anneal": Anneal,
    "blur": image_steps.Blur,
    "crop": image_steps.Crop,
    "cut_out": image_steps.CutOut,
    "dihedral": image_steps.Dihedral,
    "dropout": row_steps.Dropout,
    "flip": image_steps.Flip,
    "free_bits": FreeBits,
    "noise": row_steps.Noise,
    "time_jitter": row_steps.TimeJitter,
}
FROM_PYTHON = {"penalty": "a function", "stop_gradient": "networks"}
DEPTH = 100  # levels of the syntax tree


def parse_objective(text: str) -> Objective:
    """An objective from its text: a name with options, or a weighted sum of them.

    Args:
        text: Names in ``BOUNDS`` and ``TERMS``, e.g. ``elbo``, optionally with options in
            parentheses; words need no quotes, e.g. ``iwelbo(particles=8, grad=dreg)``. Numbers
            that change are written ``anneal(first, last, start, end)``, steps of a view by their
            names, e.g. ``(affine(degrees=30), flip())``. Terms are added by
            ``+``, and a number and ``*`` before one, or before a sum in parentheses, weigh it:
            ``elbo + 0.5 * (classification(y) + hinge(y, weight=3))``. What ``repr`` prints of
            an objective without functions or networks is such a text.

    Raises:
        ValueError: Naming the unknown objective or option, with the nearest known one, or the
            part of the text that is none of these.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"objective {_short(text)!r} is not of the form name, name(option=value, ...) or a "
            "weighted sum of them, such as 'elbo + 0.5 * classification(y)'"
        ) from None
    _check_depth(tree)
    return _objective(tree)


def _check_depth(tree: ast.expr) -> None:
    # First of all, as whatever walks a tree calls itself.
    level: list[ast.AST] = [tree]
    for _ in range(DEPTH):
        level = [part for node in level for part in ast.iter_child_nodes(node)]
    if level:
        raise ValueError(f"objective has more than {DEPTH} parts within each other")


def _objective(node: ast.expr) -> Objective:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _objective(node.left) + _objective(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for weight, term in ((node.left, node.right), (node.right, node.left)):
            if (number := _number(weight)) is not None:
                return _objective(term) * number
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise ValueError(
            f"objective {_written(node)!r}: expected name(option=value, ...), a sum of such by "
            "'+', or one with a number and '*' before it"
        )
    return _made(call.func.id, call)


def _made(name: str, call: ast.Call) -> Objective:
    every = {**BOUNDS, **TERMS}
    if (needed := _found(name, FROM_PYTHON)) is not None:
        raise ValueError(
            f"objective {name!r} needs {needed}, which only Python can give it; by name there "
            f"are {', '.join(sorted(every))}"
        )
    make = _found(name, every | {cls.__name__: cls for cls in every.values()})
    if make is None:
        raise ValueError(unknown("objective", name.lower(), every))
    parameters = inspect.signature(make).parameters
    needs = [p.name for p in parameters.values() if p.default is p.empty]
    given = dict(zip(needs, call.args, strict=False))
    for node in call.args[len(needs) :]:
        raise ValueError(
            f"objective {_written(call)!r}: expected option=value, got {_written(node)!r}"
        )
    for option in call.keywords:
        _check_option(option, name, parameters)
        if option.arg in given:
            raise ValueError(f"objective {_written(call)!r} has {option.arg} twice")
        given[str(option.arg)] = option.value
    for need in needs:
        if need not in given:
            raise ValueError(f"objective {_written(call)!r} lacks {need}=, expected a value")
    options = {
        key: _objective(node) if key == "bound" else _value(node) for key, node in given.items()
    }
    try:
        made: Objective = make(**options)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"objective {_written(call)!r}: {error}") from None
    return made


def _check_option(option: ast.keyword, name: str, known: Iterable[str]) -> None:
    if option.arg is None:
        raise ValueError(f"{name}: expected option=value, got '**{_written(option.value)}'")
    if option.arg not in known:
        raise ValueError(unknown(f"option of {name.lower()}", option.arg, known))


def _found(name: str, named: Mapping[str, Any]) -> Any:
    # Without regard to capitals and underscores: class names have the ones and lack the others.
    plain = name.lower().replace("_", "")
    return next((v for key, v in named.items() if key.lower().replace("_", "") == plain), None)


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _number(node.operand)
        return None if number is None else -number
    value = node.value if isinstance(node, ast.Constant) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if math.isfinite(value) else None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError(f"{_written(node)!r}: expected {{site: number, ...}}")
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.Tuple):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if (make := _found(name, VALUES)) is None:
            raise ValueError(unknown("value", _written(node.func), VALUES))
        for option in node.keywords:
            _check_option(option, name, inspect.signature(make).parameters)
        options = {str(option.arg): _value(option.value) for option in node.keywords}
        try:
            return make(*map(_value, node.args), **options)
        except TypeError as error:
            raise ValueError(f"{_written(node)!r}: {error}") from None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _written(node: ast.expr) -> str:
    return _short(ast.unparse(node))


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
