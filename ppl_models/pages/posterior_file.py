"""The file of a run's posterior."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import arviz as az


POSTERIOR = "posterior.nc"


def posterior_of(source: Path) -> az.InferenceData:
    """The posterior in a run's folder, or in a file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    from ppl_models.inference.posterior.export import load  # it loads ArviZ

    if not source.is_dir():
        return load(source)
    path = source / POSTERIOR
    if not path.exists():
        raise FileNotFoundError(
            f"{source} holds no {POSTERIOR}; write one with ppl-models export {source}"
        )
    return load(path)


@contextlib.contextmanager
def reading(*sources: Path) -> Iterator[None]:
    """Name the files where what they hold is not as it is expected to be.

    Raises:
        ValueError: In one line.
    """
    named = " or ".join(map(str, sources))
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{named} holds a posterior that this library does not know how to read "
            f"({type(error).__name__}: {reason})"
        ) from error
    except ValueError as error:
        told = " ".join(str(error).split())
        if any(str(source) in told for source in sources):
            raise
        raise ValueError(f"{named}: {told}") from error
