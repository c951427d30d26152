"""The file of a run's posterior."""

from __future__ import annotations

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
