"""The parts of a report, each as HTML; empty where the posterior has nothing for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from ppl_models import catalogue
from ppl_models.html_tables import facts, pre, table
from ppl_models.inference import Run, plots
from ppl_models.inference.diagnostics import row_scores, verdict as judged
from ppl_models.inference.diagnostics.calibration import calibration_error, sbc
from ppl_models.inference.plots.fit_checks import scalars, stage_numbers
from ppl_models.inference.plots.samples import GROUPS, data_sites, image_shape
from ppl_models.inference.plots.traversals import latent_sites
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.inference.posterior.importance_weights import khat_threshold
from ppl_models.inference.posterior.known_rows import covariates_in
from ppl_models.inference.posterior.netcdf_read import OURS
from ppl_models.pages.describe import describe
from ppl_models.pages.html import banner, drawing, figure, figures, paragraph

LEAST_ROWS = 20  # for a calibration error to mean anything
LONGEST = 300  # letters of what a file of another program says of itself
WORST = 8  # rows of largest k-hat that are shown


@dataclass(frozen=True)
class Fit:
    """What a page is made from.

    Attributes:
        idata: The posterior.
        run: The run, where its pair can be built.
        description: What ``run.json`` says; empty for a file alone.
        missing: Why there is no run.
    """

    idata: az.InferenceData
    run: Run | None
    description: Mapping[str, Any]
    missing: str

    @property
    def ours(self) -> bool:
        """Whether this library wrote the posterior, which then has all that it writes."""
        return str(self.idata.attrs.get("creation_library")) == OURS

    @property
    def name(self) -> str:
        """Name of the pair."""
        return str(self.idata.attrs.get("name", "posterior"))


def verdict(fit: Fit) -> tuple[bool, str]:
    """Whether a fit is to be trusted, and why, with what to try next."""
    try:
        found = judged.verdict(fit.idata)
    except ValueError as problem:
        return False, banner("Cannot be judged", False, [(str(problem), False)])
    # What nothing is held against has a section of its own.
    lines = [(check.sentence, check.ok) for check in found.findings if not check.unjudged]
    words = "This posterior can be trusted" if found.ok else "This posterior is not to be trusted"
    return found.ok, banner(words, found.ok, lines)


def fitted(fit: Fit) -> str:
    """Paper, data, settings, seeds and versions."""
    if not fit.ours:
        return of_others(fit.idata)
    attrs, saved = fit.idata.attrs, fit.description
    card, config = (json.loads(attrs[key]) for key in ("card_json", "config_json"))
    identity = saved.get("identity", {})
    number = card["arxiv"]
    where = number if not number or number.startswith("10.") else f"arXiv {number}"
    kinds = ("data", "covariates", "latents")
    sites = [(name, what) for part in kinds for name, what in card.get(part, {}).items()]
    recipe = saved.get("data", {})
    rows = int(fit.idata.posterior.sizes.get("datum", 0))
    draws = [int(fit.idata.posterior.sizes[dim]) for dim in ("chain", "draw")]
    name = fit.run.pair.source if fit.run is not None else attrs["pair"]
    story = describe(name)["story"] if _known(fit) else ""
    seconds = fit.run.history["seconds"] if fit.run is not None else []
    versions = {
        **{str(attrs["creation_library"]): attrs["creation_library_version"]},
        **saved.get("versions", {}),
    }
    return facts(
        {
            "Paper": f"{card['authors']}. {card['title']}. {card['year']}. {where}".rstrip(),
            "Idea": card["task"],
            "Story": pre(story) if story else "",
            "Sites": table(("site", "meaning"), sites),
            "Departs": "; ".join(card["departs"]),
            "Data": recipe.get("name", attrs["data"]),
            "Data options": recipe.get("options", {}),
            "Data digest": recipe.get("digest", ""),
            "Settings": config,
            "Objective": saved.get("objective", attrs["objective"]),
            "Trained with": table(("stage", "objective", "options"), _stages(saved)),
            "Seed of training": identity.get("seed", attrs.get("training_seed", "")),
            "Training took": f"{seconds[-1]:.0f} s" if seconds else "",
            "Posterior": f"{attrs['inference_method']}, {rows} rows of {attrs['data']} given "
            f"{attrs['given']}, {draws[0]} x {draws[1]} draws, seed {attrs['seed']}",
            "Written": str(attrs["created_at"])[:19].replace("T", " ") + " UTC",
            "Versions": versions,
        }
    )


def of_others(idata: az.InferenceData) -> str:
    """What a file of another program holds: its variables, and what it says of itself."""
    variables = [
        (group, str(name), " x ".join(f"{dim} {size}" for dim, size in values.sizes.items()))
        for group, dataset in groups_of(idata).items()
        for name, values in dataset.data_vars.items()
    ]
    said = {str(name): _cut(value) for name, value in idata.attrs.items()}
    for name, value in groups_of(idata).get("posterior", xr.Dataset()).attrs.items():
        said.setdefault(str(name), _cut(value))
    return facts({**said, "Variables": table(("group", "variable", "size"), variables)})


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _known(fit: Fit) -> bool:
    return fit.run is not None or catalogue.published(fit.idata.attrs["pair"]) is not None


def _stages(saved: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found, apart = [], ("name", "objective", "parts", "players")
    # Older folders have them, as they are printed, in what tells runs apart.
    for stage in saved.get("stages", saved.get("identity", {}).get("stages", [])):
        options = {k: v for k, v in stage.items() if k not in apart}
        text = ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in options.items() if value
        )
        found.append((stage["name"], stage["objective"], text))
    return found


def training(fit: Fit) -> str:
    """The training curve of each stage."""
    source = fit.idata if fit.run is None else fit.run
    names = [stage["name"] for stage in fit.description.get("identity", {}).get("stages", [])]
    drawn = []
    for stage in stage_numbers(source):
        with drawing() as canvas:
            plots.training_curve(source, stage, canvas.subplots())
        name = names[stage] if stage < len(names) else stage
        drawn.append(
            figure(canvas, f"Stage {name}: loss and its parts. The early fall may lie above.")
        )
    return figures(*drawn)


def data(fit: Fit) -> str:
    """Reconstructions, and draws from the posterior and the prior."""
    drawn = []
    for site in data_sites(fit.idata):
        image = image_shape(fit.idata, site) is not None
        for group, words in (("posterior", "each row's code"), ("prior", "codes from the prior")):
            if site not in fit.idata.get(GROUPS[group], ()):
                continue
            if group == "posterior":
                with drawing(4.4, 3.0) as canvas:
                    plots.reconstructions(fit.idata, site, ax=canvas.subplots())
                drawn.append(figure(canvas, _reconstructed(site, image)))
            with drawing(4.4, 2.6 if image else 3.0) as canvas:
                plots.predictive(fit.idata, group, site, ax=canvas.subplots())
            kind = "Draws" if image else "Median and central 90 % of data, and of draws"
            drawn.append(figure(canvas, f"{kind} of {site} from the model, given {words}."))
            if group == "posterior" and not image:
                with drawing() as canvas:
                    plots.density(fit.idata, site, canvas.subplots())
                drawn.append(figure(canvas, f"Density of all entries of {site}, and of draws."))
    return figures(*drawn)


def _reconstructed(site: str, image: bool) -> str:
    if image:
        return f"Rows of {site}, and below them the model's {site} given each row's code."
    return f"Rows of {site} (dots), and the model's {site} given their codes (central 90 %)."


def latents(fit: Fit) -> str:
    """What each latent site does."""
    if fit.run is None:
        return ""
    drawn = []
    for data in data_sites(fit.idata):
        for site in latent_sites(fit.idata):
            with drawing(4.4, 4.0) as canvas:
                plots.traversal(fit.run.pair, fit.idata, site, 0, data, ax=canvas.subplots())
            drawn.append(figure(canvas, f"Mean of {data} as {site} moves and all else stays."))
    return figures(*drawn)


def labels(fit: Fit) -> Iterator[str]:
    """Errors and calibration of each label with a known truth."""
    for site in row_scores.label_sites(fit.idata):
        found = row_scores.labels(fit.idata, site)
        known = len(found.truth)
        calibrated = ""
        drawn = [
            _label_figure(plots.confusion, fit, site, f"Rows by {site} and most probable {site}.")
        ]
        if known >= LEAST_ROWS:
            chance = calibration_error(found.probs, found.truth)
            calibrated = (
                f" Calibration error {_share(row_scores.calibration(found))}; right probabilities "
                f"would have {100 * float(chance['by_chance']):.2f} % by chance, and as much with "
                f"probability {float(chance['p_value']):.3f}."
            )
            caption = f"Are probabilities of {site} shares of rows? Bars: 95 %."
            drawn.append(_label_figure(plots.reliability, fit, site, caption))
        yield paragraph(
            f"Error of {site}: {_share(found.wrong)} of {known} rows whose label was not "
            f"given.{calibrated}"
        )
        yield figures(*drawn)


def _label_figure(plot: Callable[..., Any], fit: Fit, site: str, caption: str) -> str:
    with drawing(4.4, 3.8) as canvas:
        plot(fit.idata, site, canvas.subplots())
    return figure(canvas, caption)


def _share(values: Any) -> str:
    if len(values) < 2:
        return f"{100 * values.mean():.2f} %"
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{100 * values.mean():.2f} ± {100 * error:.2f} %"


def weights(fit: Fit) -> Iterator[str]:
    """k-hat, and the rows in which the guide is worst."""
    idata = fit.idata
    shapes = row_scores.per_row(idata, "khat")
    if shapes is None:
        return
    draws = int(idata.sample_stats.sizes["draw"])
    drawn = []
    if np.isfinite(shapes).any():
        with drawing() as canvas:
            plots.khat(idata, canvas.subplots())
        drawn.append(
            figure(
                canvas,
                f"k-hat of all rows; above {khat_threshold(draws):.2f} weights fail.",
            )
        )
    worst = worst_rows(idata)
    if len(worst):
        for site in data_sites(idata):
            if site in idata.get("posterior_predictive", ()):
                image = image_shape(idata, site) is not None
                rows = [row for row in worst if row < idata.observed_data.sizes["datum"]]
                rows = rows if image else rows[:3]
                if not rows:
                    continue
                with drawing(4.4, 3.0) as canvas:
                    plots.reconstructions(idata, site, rows, ax=canvas.subplots())
                drawn.append(
                    figure(canvas, f"The rows of largest k-hat. {_reconstructed(site, image)}")
                )
    yield figures(*drawn)
    columns = {
        name: values
        for name in ("khat", "ess_is", "elbo", "iw_bound")
        if (values := row_scores.per_row(idata, name)) is not None
    }
    labels = row_scores.label_sites(idata)
    numbers = idata.diagnostics["datum"].values
    lines = [
        (
            int(numbers[row]),
            *(float(values[row]) for values in columns.values()),
            *(_guess(idata, site, row) for site in labels),
        )
        for row in worst
    ]
    yield table(("row", *columns, *(f"{site}: true, guess" for site in labels)), lines)


def worst_rows(idata: az.InferenceData, count: int = WORST) -> list[int]:
    """Positions of the rows of largest k-hat, the worst first; NaN does not count."""
    shapes = row_scores.per_row(idata, "khat")
    assert shapes is not None
    order = np.argsort(-np.nan_to_num(shapes, nan=-np.inf), kind="stable")[:count]
    return [int(row) for row in order if not np.isnan(shapes[row])]


def _guess(idata: az.InferenceData, site: str, row: int) -> str:
    table = row_scores.label_probs(idata, site)
    assert table is not None
    probs = table[row]
    names = idata.variational[f"{site}_class"].values
    truth = int(idata.constant_data[f"{site}_true"].values[row])
    right = names[truth] if truth >= 0 else "hidden"
    return f"{right}, {names[probs.argmax()]} ({probs.max():.2f})"


def simulated(fit: Fit, rows: int) -> Iterator[str]:
    """Calibration of the guide: it plays no part in draws by MCMC."""
    if fit.run is None or not rows or "diagnostics" not in groups_of(fit.idata):
        return
    try:
        known = groups_of(fit.idata).get("constant_data", xr.Dataset())
        found = sbc(fit.run.pair, rows, covariates=covariates_in(fit.run.pair, known))
    except ValueError as problem:  # sites that ranks are not made for
        yield paragraph(f"Not simulated: {problem}.")
        return
    good = bool(found.attrs["passed"])
    total = found.sizes["quantity"]
    failed = found.isel(quantity=~found["passed"].values)
    words = (
        f"all {total} quantities are as those of an exact guide"
        if good
        else f"{failed.sizes['quantity']} of {total} quantities are off"
    )
    yield paragraph(
        f"In {rows} rows drawn from the model, {words} ({found.attrs['level']:.0%} bands, all "
        "quantities together). This says whether the guide is right about the model's own rows, "
        "not about these data."
    )
    with drawing(4.4, 3.4) as canvas:
        plots.ranks(found, canvas.subplots())
    yield figures(
        figure(canvas, "Ranks of the values that made the rows, among the guide's draws.")
    )
    yield table(
        ("quantity", "p-value", "bias, se", "spread, se", "in the central 90 %"),
        [
            (
                str(name),
                *(float(failed[part].values[place]) for part in ("p_value", "bias", "spread")),
                _interval(failed, place),
            )
            for place, name in enumerate(failed["quantity"].values[:WORST])
        ],
    )


def _interval(found: Any, place: int) -> str:
    inside = float(found["coverage"].sel(level=0.9).values[place])
    return f"{100 * inside:.1f} ± {100 * float(found['coverage_error'].sel(level=0.9)):.1f} %"


def chains(fit: Fit) -> Iterator[str]:
    """How chains mixed."""
    idata = fit.idata
    stats = groups_of(idata).get("sample_stats", xr.Dataset())
    if "posterior" not in groups_of(idata) or (fit.ours and "diverging" not in stats):
        return
    chosen = scalars(idata, WORST)
    if not chosen.data_vars:
        return
    chains, draws = (int(idata.posterior.sizes[dim]) for dim in ("chain", "draw"))
    diverging = (
        f", {int(stats['diverging'].sum())} divergent transitions" if "diverging" in stats else ""
    )
    yield paragraph(f"{chains} chains of {draws} draws{diverging}. The numbers that mixed worst:")
    with drawing(8.8, 7.6) as canvas:
        plots.trace(idata, 4, canvas.subplots(min(4, len(chosen)), 2, squeeze=False))
    yield table(
        ("number", "R-hat", "effective draws", "mean", "sd"),
        [
            (
                str(name),
                float(values.attrs["rhat"]),
                round(values.attrs["ess"]) if math.isfinite(values.attrs["ess"]) else "unknown",
                float(values.mean()),
                float(values.std()),
            )
            for name, values in chosen.data_vars.items()
        ],
    )
    yield figures(
        figure(canvas, "Density and trace, a colour per chain, of the four worst.", wide=True)
    )


def footer(fit: Fit) -> str:
    """Who wrote the page, and what it lacks."""
    note = f" Traversals are missing: {fit.missing}." if fit.missing else ""
    return f"<footer>{paragraph('Written by ppl-models.' + note)}</footer>"
