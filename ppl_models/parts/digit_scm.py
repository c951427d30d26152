"""The causes of a written digit: how thick its stroke is, and through that how bright.

Story of Morpho-MNIST (Castro et al. 2019, arXiv 1809.10780) as Pawlowski et al. (2020, arXiv
2006.06485) made it causal. Thickness is in pixels, intensity in grey levels, one number per row:

    thickness = exp(m + s spline(u_t)),    intensity = low + (high - low) sigmoid(a + b u_i)

where a and log b are linear in the normalised logarithm of the thickness. Without the arrow the
intensity is a constant affine function and a spline of its noise. With classes the digit y is a
further root, and a parent of the intensity. What networks see of the two is
``scm.inner(values)``: the normalised logarithm, and the logit of the share of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppl_models.networks import Scalar
from ppl_models.parts.scm import SCM, Affine, Between, Classes, Mechanism, Positive, Spline

LOG_THICKNESS = (0.885, 0.253)  # mean and deviation of log(0.5 + Gamma(10, 5))
# The data's are within 64 and 255. One to spare: at an end the noise would be infinite.
GREY_LEVELS = (63.0, 256.0)


def digit_scm(
    arrow: bool = True,
    log_thickness: Sequence[float] = LOG_THICKNESS,
    grey_levels: Sequence[float] = GREY_LEVELS,
    classes: int = 0,
) -> SCM:
    """The variables ``thickness`` and ``intensity``, and with classes ``y`` before them.

    Args:
        arrow: Whether the thickness changes the intensity.
        log_thickness: Mean m and deviation s of the logarithm of the thickness.
        grey_levels: Lowest and highest intensity, beyond all that there are.
        classes: Classes of the digit; 0 leaves it out.

    Raises:
        ValueError: In one line, if one of these is no such pair of numbers.
    """
    mean, deviation = _two("log_thickness", log_thickness)
    low, high = _two("grey_levels", grey_levels)
    if not deviation > 0:
        raise ValueError(f"log_thickness is {(mean, deviation)}, expected a positive deviation")
    if not low < high:
        raise ValueError(f"grey_levels are {(low, high)}, expected the lowest, then the highest")
    digit = {"y": Classes(classes, {})} if classes else {}
    of = {name: root.size for name, root in digit.items()}
    between = (Between(low, high),)
    if arrow:
        intensity = Mechanism({**of, "thickness": Scalar()}, Affine, outer=between)
    else:
        intensity = Mechanism(of, Affine, Spline, outer=between)
    thickness = Mechanism({}, Spline, outer=(Positive(mean, deviation),))
    return SCM(**digit, thickness=thickness, intensity=intensity)


def _two(option: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2:
        raise ValueError(f"{option} is {tuple(values)}, expected two numbers")
    first, second = map(float, values)
    return first, second
