"""The files of a run's posterior, and of metrics of its codes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import arviz as az


POSTERIOR, METRICS = "posterior.nc", "metrics.nc"


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


def with_metrics(idata: az.InferenceData, folder: Path) -> az.InferenceData:
    """A run's posterior with the metrics that stand in its folder, if any.

    Raises:
        ValueError: If their file is damaged.
    """
    from ppl_models.inference.posterior.export import load
    from ppl_models.inference.posterior.groups import groups_of, with_groups

    path = folder / METRICS
    return with_groups(idata, **groups_of(load(path))) if path.exists() else idata


@contextlib.contextmanager
def reading(*sources: str | Path) -> Iterator[None]:
    """Let every error of a file name it, whatever library stumbled over what is in it.

    Args:
        sources: The files, or the folders that they are in.

    Raises:
        ValueError: In one line.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if any(str(s) in reason for s in sources) and isinstance(error, ValueError | OSError):
            raise
        named = " or ".join(map(str, sources))
        if isinstance(error, ValueError):
            raise ValueError(f"{named}: {reason}") from error
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise ValueError(f"{named} cannot be read: {reason}") from error
