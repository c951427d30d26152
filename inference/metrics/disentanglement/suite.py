"""All metrics of a table of codes at once, sharing what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import arviz as az
import numpy as np
import xarray as xr

from ppl_models.config import check_seed, names, unknown
from ppl_models.inference.metrics.disentanglement.boosted_trees import dci, dci_hist
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.downstream_tasks import (
    downstream,
    fairness,
    reduced_downstream,
    strong_downstream,
)
from ppl_models.inference.metrics.disentanglement.information import (
    mig,
    modularity,
    mutual_information,
)
from ppl_models.inference.metrics.disentanglement.information_entropy import med, med_miller_madow
from ppl_models.inference.metrics.disentanglement.interventional import irs, unconfoundedness
from ppl_models.inference.metrics.disentanglement.linear_probes import (
    explicitness,
    logistic_informativeness,
    sap,
    sap_continuous,
)
from ppl_models.inference.metrics.disentanglement.sampler import Sampler
from ppl_models.inference.metrics.disentanglement.support_factorisation import fos
from ppl_models.inference.metrics.disentanglement.unsupervised import unsupervised_scores
from ppl_models.inference.metrics.disentanglement.votes import beta_vae_score, factor_vae_score
from ppl_models.inference.posterior.groups import with_groups

GROUP = "metrics"  # of an InferenceData
SHOWN = ("rho", "top_k", "size")  # dimensions whose few numbers are told one by one


@dataclass(frozen=True)
class _Given:
    """What metrics are asked of: rows to fit on, rows to ask, and who draws votes."""

    train: CodeTable
    test: CodeTable
    population: CodeTable | Sampler
    votes: int
    bins: int
    seed: int

    @property
    def voting(self) -> dict[str, int]:
        """Options of scores of votes; half as many votes are asked, as in the study."""
        return {"votes": self.votes, "test_votes": max(1, self.votes // 2), "seed": self.seed}


METRICS: dict[str, Callable[[_Given], xr.Dataset]] = {
    "mutual_information": lambda g: mutual_information(g.train, g.bins),
    "mig": lambda g: mig(g.train, g.bins),
    "modularity": lambda g: modularity(g.train, g.bins),
    "med": lambda g: med(g.train, g.bins),
    "explicitness": lambda g: explicitness(g.train, g.test),
    "logistic_informativeness": lambda g: logistic_informativeness(g.train, g.test),
    "sap": lambda g: sap(g.train, g.test),
    "sap_continuous": lambda g: sap_continuous(g.train),
    "dci": lambda g: dci(g.train, g.test, seed=g.seed),
    "irs": lambda g: irs(g.train),
    "unconfoundedness": lambda g: unconfoundedness(g.train),
    "unsupervised_scores": lambda g: unsupervised_scores(g.train, g.bins),
    "beta_vae_score": lambda g: beta_vae_score(g.population, **g.voting),
    "factor_vae_score": lambda g: factor_vae_score(g.population, **g.voting),
    "med_miller_madow": lambda g: med_miller_madow(g.train, g.bins),
    "dci_hist": lambda g: dci_hist(g.train, g.test, seed=g.seed),
    "downstream": lambda g: downstream(g.train, g.test, seed=g.seed),
    "reduced_downstream": lambda g: reduced_downstream(g.train, g.test, seed=g.seed),
    "strong_downstream": lambda g: strong_downstream(g.train, g.test, seed=g.seed),
    "fairness": lambda g: fairness(g.train, g.test, seed=g.seed),
    "fos": lambda g: fos(g.test, seed=g.seed),
}
# What the study reports of every model; the rest takes longer and is named when it is wanted.
STANDARD = tuple(METRICS)[: list(METRICS).index("med_miller_madow")]


def evaluate(
    table: CodeTable,
    test: CodeTable | None = None,
    metrics: Sequence[str] = STANDARD,
    *,
    population: CodeTable | Sampler | None = None,
    votes: int = 10_000,
    bins: int = 20,
    train_rows: int = 10_000,
    test_rows: int = 5_000,
    seed: int = 0,
) -> xr.Dataset:
    """Metrics of a table of codes, in one data set.

    Bins, the matrix of mutual information, standardised codes and boosted trees are made once and
    shared. The study (Locatello et al. 2019, arXiv 1811.12359) takes the sizes that are defaults
    here.

    Args:
        table: Codes and factors, such as :func:`encode` gives them. They are split at random into
            rows to fit on and rows to ask, unless ``test`` is given.
        test: Other rows, to ask; ``table`` is then fitted on whole.
        metrics: Names of metrics, see :data:`METRICS`.
        population: What the votes of BetaVAE and FactorVAE are drawn from: ``table`` by default;
            a :class:`Sampler` where each image has a nuisance that is to be drawn anew.
        votes: Votes that a classifier is fitted on; it is asked half as many. Of a sampler each
            costs 64 or 128 images.
        bins: Bins of equal width of each code.
        train_rows: Rows to fit on, where ``table`` is split.
        test_rows: Rows to ask.
        seed: Of the split, of votes and of whatever draws.

    Returns:
        The numbers and matrices of each metric by its name, with settings as attributes of each.
        :func:`attach` puts it into an InferenceData.

    Raises:
        ValueError: If a metric is unknown or none is named, or rows are too few.
    """
    seed = check_seed(seed)
    if not names("metrics", metrics):
        raise ValueError("metrics are (), expected at least one")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))
    if test is None:
        train, test = table.split(train_rows, test_rows, seed)
    else:
        train = table
        for what in ("code_names", "factor_names"):
            if getattr(train, what) != getattr(test, what):
                raise ValueError(f"the test table has other {what} than the table")
    given = _Given(train, test, table if population is None else population, votes, bins, seed)
    found = {name: METRICS[name](given) for name in dict.fromkeys(metrics)}
    parts = list(found.values())
    whole = xr.Dataset(
        {name: values for part in parts for name, values in part.data_vars.items()},
        {name: values for part in parts for name, values in part.coords.items()},
    )
    for part in reversed(parts):
        whole.attrs |= part.attrs
    whole.attrs |= {"rows": len(train), "test_rows": len(test)}
    return whole


def attach(idata: az.InferenceData, scores: xr.Dataset, group: str = GROUP) -> az.InferenceData:
    """The same posterior with metrics as a group; arrays are shared.

    Args:
        idata: A posterior, such as that of the run whose codes were encoded.
        scores: What a metric, or :func:`evaluate`, gave.
        group: Its name; one of that name is replaced.
    """
    return with_groups(idata, **{group: scores})


def numbers(scores: xr.Dataset) -> dict[str, float]:
    """The numbers of a data set of metrics that are of no single code, factor or row.

    Args:
        scores: What a metric, or :func:`evaluate`, gave.

    Returns:
        By name; those along another dimension have it in theirs, as ``"unconfoundedness, rho 2"``.
    """
    found = {}
    for name, values in scores.data_vars.items():
        if values.dtype.kind not in "fiu" or not all(d in SHOWN for d in values.dims):
            continue
        for place in np.ndindex(values.shape):
            where = [
                f"{dim} {values[dim].values[at]}"
                for dim, at in zip(values.dims, place, strict=True)
            ]
            found[", ".join([str(name), *where])] = float(values.values[place])
    return found
