"""One page that shows a fit to a person: what was fitted, how it went, whether to trust it.

Everything but traversals and simulated rows comes from the posterior's file, so that a page of
a ``.nc`` file alone, by a guide or by MCMC, has all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_models import catalogue
from ppl_models.files import write_atomically
from ppl_models.inference import Run, load
from ppl_models.inference.diagnostics.calibration import LEAST_ROWS
from ppl_models.inference.training import run_folder
from ppl_models.pages import causes, code_metrics, modalities, sections
from ppl_models.pages.html import heading, page, paragraph, section
from ppl_models.pages.posterior_file import posterior_of, reading, with_metrics
from ppl_models.pages.sections import Fit

if TYPE_CHECKING:
    import arviz as az


def write(
    source: str | Path, path: str | Path, pair: str | None = None, simulations: int = 200
) -> bool:
    """Write the page of a run, or of a posterior's file.

    Args:
        source: Folder of a run with its ``posterior.nc``, or a ``.nc`` file.
        path: The page; replaced only when the new one is complete.
        pair: Where a pair of your own is, as given to ``build``; without it there are no
            traversals and no simulated rows.
        simulations: Rows simulated to check the guide's calibration; 0 for none.

    Returns:
        Whether the posterior is to be trusted.

    Raises:
        FileNotFoundError: If there is no posterior, or no folder for the page.
        ValueError: If the run or its posterior is damaged.
        OSError: If the page cannot be written.
    """
    path = Path(path)
    check_page(path)
    with reading(Path(source)):
        fit = read(Path(source), pair)
        trusted, text = render(fit, simulations)
    put(path, text)
    return trusted


def of_run(
    run: Run, path: Path, posterior: Callable[[], az.InferenceData], simulations: int = 200
) -> bool:
    """Write the page of a run in memory; see :meth:`ppl_models.inference.Run.report`.

    Args:
        run: The run.
        path: The page.
        posterior: Makes the run's posterior, once all else is in order.
        simulations: As of :func:`write`.
    """
    check_page(path)
    check_simulations(simulations)
    trusted, text = render(Fit(posterior(), run, run.description, ""), simulations)
    put(path, text)
    return trusted


def check_simulations(count: int) -> None:
    """Refuse too few simulated rows to tell anything.

    Raises:
        ValueError: Naming how many are needed.
    """
    if count and count < LEAST_ROWS:
        raise ValueError(f"simulations is {count}, expected 0 or at least {LEAST_ROWS}")


def check_page(path: Path) -> None:
    """Refuse a page that has no folder, before any work.

    Raises:
        FileNotFoundError: Naming it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: {path.parent} is no folder")


def put(path: Path, text: str) -> None:
    """Write a page."""

    def whole(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, whole)


def read(source: Path, pair: str | None = None) -> Fit:
    """What a page is made from; see :func:`write`."""
    idata = posterior_of(source)
    if not source.is_dir():
        return Fit(idata, None, {}, "a file alone holds no weights of the networks")
    idata = with_metrics(idata, source)
    description = run_folder.read_description(source)
    if pair is None and catalogue.published(description["paper"]) is None:
        return Fit(idata, None, description, f"name your pair: --pair {description['paper']}")
    run = load(source, pair)
    return Fit(idata, run, run.description, "")


def render(fit: Fit, simulations: int = 200) -> tuple[bool, str]:
    """Whether a fit is to be trusted, and its page."""
    data = fit.idata.attrs.get("data", "unknown data")
    title = f"{fit.name} on {data}"
    ok, said = sections.verdict(fit)
    parts: tuple[tuple[str, Callable[[Fit], str | Iterable[str]]], ...] = (
        ("What was fitted on what", sections.fitted),
        ("Training", sections.training),
        ("Data and model", sections.data),
        ("Latent sites", sections.latents),
        ("Causes and their effects", causes.causes),
        ("Modalities", modalities.modalities),
        ("Metrics of codes", code_metrics.metrics),
        ("Labels", sections.labels),
        ("Importance weights, row by row", sections.weights),
        ("Rows simulated from the model", lambda fit: sections.simulated(fit, simulations)),
        ("Chains", sections.chains),
    )
    blocks = [section(name, *_made(make, fit)) for name, make in parts]
    return ok, page(title, heading(title), said, *blocks, sections.footer(fit))


def _made(make: Callable[[Fit], str | Iterable[str]], fit: Fit) -> list[str]:
    """The blocks of a section; of a file of another program, why it has none."""
    try:
        made = make(fit)
        return [made] if isinstance(made, str) else list(made)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        if fit.ours:
            raise
        return [paragraph(f"Not shown: {' '.join(str(error).split())}.")]
