"""Whether a posterior can be trusted, from its InferenceData alone.

The checks, their limits and the reasons for these stand in the modules beside this one:
``weight_checks`` (a guide's draws), ``code_checks``, ``label_checks``, ``training_checks``,
``chain_checks``, ``counterfactual_checks`` of pairs whose card has causes and, where rows have no
evidence, ``density_checks``. How many planted faults they find, and how often they are wrong about
good fits, stands in ``docs/diagnostics.md``. What ``modality_checks`` tell is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from ppl_models import html_tables
from ppl_models.inference.diagnostics.chain_checks import chain_checks
from ppl_models.inference.diagnostics.code_checks import code_checks
from ppl_models.inference.diagnostics.counterfactual_checks import (
    counterfactual_checks,
    mask_checks,
)
from ppl_models.inference.diagnostics.density_checks import density_checks
from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.diagnostics.label_checks import label_checks
from ppl_models.inference.diagnostics.modality_checks import modality_checks
from ppl_models.inference.diagnostics.training_checks import CURVE, training_checks
from ppl_models.inference.diagnostics.weight_checks import weight_checks
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.inference.posterior.netcdf_read import OURS

Datasets = Mapping[str, xr.Dataset]

PART_CELLS = 1 << 22  # numbers read from a file at a time
CHAINS = ("nuts", "hmc")


@dataclass(frozen=True)
class Verdict:
    """What the diagnostics say; ``print(verdict)`` shows a line for each check.

    Attributes:
        findings: One for each check.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(check for check in self.findings if not check.ok)

    def __str__(self) -> str:
        lines = [f"{_mark(f)}  {f.sentence}" for f in self.findings]
        return "\n".join([*lines, "trusted" if self.ok else "not to be trusted"])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [(_mark(found).strip(), found.name, found.sentence) for found in self.findings]
        return html_tables.notebook(
            "trusted" if self.ok else "not to be trusted",
            html_tables.table(("", "check", "what it found"), rows),
        )


def _mark(finding: Finding) -> str:
    if finding.left_out:
        return "none  "
    if finding.unjudged:
        return "told  "
    return "ok    " if finding.ok else "FAILED"


def verdict(
    idata: az.InferenceData | xr.DataTree, masks: Mapping[str, Any] | None = None
) -> Verdict:
    """Check a posterior from what its InferenceData holds.

    Args:
        idata: From ``export.posterior``, ``mcmc.nuts``, or a file of theirs.
        masks: Where the truth is known, masks of 0 and 1 by the variable of the group
            ``structure`` that tells their probabilities.

    Raises:
        ValueError: If it holds nothing to check, or a mask does not fit.
    """
    groups = groups_of(idata)
    ours = str(idata.attrs.get("creation_library")) == OURS
    checks = density_checks(groups, idata.attrs)
    checks += [*weight_checks(groups), *training_checks(groups, idata.attrs)]
    # A file by another program has none of these; its draws are those of chains.
    if (not checks and not ours) or idata.attrs.get("inference_method") in CHAINS:
        checks += chain_checks(groups)
    if not checks:
        raise ValueError(
            f"nothing to check in groups {list(groups)}, expected 'diagnostics', 'training' "
            "or a posterior of chains of draws"
        )
    checks += code_checks(groups)
    checks += label_checks(groups)
    checks += [*counterfactual_checks(groups, idata.attrs), *mask_checks(groups, masks or {})]
    checks += modality_checks(idata)
    ragged = str(idata.attrs.get("ragged", "")).split(", ")
    return Verdict((_finite(groups, ours, ragged), *checks))


def _finite(groups: Datasets, ours: bool, ragged: Sequence[str]) -> Finding:
    bad, total = [], 0
    for group in ("posterior", "sample_stats", "log_likelihood", "training"):
        for name, values in groups.get(group, xr.Dataset()).data_vars.items():
            if values.dtype.kind not in "fciub" or (group == "training" and name != "loss"):
                continue  # stages have parts of the loss of their own
            count, first = 0, ""
            for part in _parts(values):
                wrong = ~np.isfinite(part.values)
                if group == "posterior" and str(name).removesuffix("_probs") in ragged:
                    # Elements that a row has not: log densities tell of those that it has.
                    gaps = part.isnull().all(("chain", "draw")).broadcast_like(part)
                    wrong &= ~gaps.transpose(*part.dims).values
                count += int(wrong.sum())
                if count and not first and "datum" in part.dims:
                    rows = wrong.any(tuple(d for d, n in enumerate(part.dims) if n != "datum"))
                    place = int(np.flatnonzero(rows)[0])
                    row = part["datum"].values[place] if "datum" in part.coords else place
                    first = f", first in row {row}"
            if group == "training" and set(values.dims) == CURVE:
                # A chain has no values at steps that only others took.
                there = groups[group].notnull().to_dataarray().any("variable")
                count -= int((~there & there.any("chain")).sum())
            if count == values.size and group == "sample_stats" and not ours:
                continue  # what other programs put where a statistic does not apply
            if count:
                bad.append(f"{count} of {values.size} in {group}/{name}{first}")
                total += count
    fact = f"{total} numbers are not finite (at most 0)" + (f": {', '.join(bad)}" if bad else "")
    return Finding(
        "finite", not bad, fact,
        "look for data outside the likelihood's support, or train with a smaller learning rate",
        figure=total, limit=0,
    )  # fmt: skip


def _parts(values: xr.DataArray) -> Iterator[xr.DataArray]:
    """Some rows at a time: what lies in a file may be more than memory holds."""
    rows = values.sizes.get("datum", 1)
    step = max(1, PART_CELLS * rows // max(1, values.size))
    for start in range(0, rows, step):
        yield values[{"datum": slice(start, start + step)}] if "datum" in values.dims else values
