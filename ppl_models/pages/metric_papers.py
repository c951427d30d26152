"""Papers that are metrics and no pairs: what their docs pages and records are called by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricPaper:
    """What a reader wants to know of a metric's paper.

    Attributes:
        title: Title of the paper.
        authors: Authors, as printed.
        year: Year of publication.
        arxiv: arXiv number, or a DOI.
        task: What it measures, in a few words.
        about: What the paper claims, in a sentence or two.
        functions: What stands for it in :mod:`ppl_models.inference.metrics`, the main one first.
        family: The docs page with its formulas, under ``docs/metrics``.
        departs: Where ours departs from the paper or its code, and why.
        limits: What it cannot tell.
    """

    title: str
    authors: str
    year: int
    arxiv: str
    task: str
    about: str
    functions: tuple[str, ...]
    family: str
    departs: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


METRIC_PAPERS: dict[str, MetricPaper] = {
    "disentanglement_metrics": MetricPaper(
        title="Challenging Common Assumptions in the Unsupervised Learning of Disentangled "
        "Representations",
        authors="F. Locatello, S. Bauer, M. Lucic, G. Raetsch, S. Gelly, B. Schoelkopf, O. Bachem",
        year=2019,
        arxiv="1811.12359",
        task="disentanglement",
        about="The suite of metrics of the study, each as in its own paper, from one table of "
        "codes.",
        functions=(),
        family="codes",
    ),
    "med": MetricPaper(
        title="An Empirical Study on Disentanglement of Negative-free Contrastive Learning",
        authors="J. Cao, R. Nai, Q. Yang, J. Huang, Y. Gao",
        year=2022,
        arxiv="2206.04756",
        task="disentanglement of wide codes",
        about="Disentanglement from mutual information alone, so that codes of a thousand "
        "dimensions can be judged, and of the few best codes of each factor.",
        functions=(),
        family="codes",
    ),
    "causal_metrics": MetricPaper(
        title="On Causally Disentangled Representations",
        authors="A. G. Reddy, B. Godfrey L, V. N. Balasubramanian",
        year=2022,
        arxiv="2112.05746",
        task="causal disentanglement",
        about="Where factors are confounded, each should own codes of its own (UC), and setting "
        "these should change that factor in the decoded image and nothing else (CG).",
        functions=(),
        family="codes",
    ),
    "identifiable_concepts": MetricPaper(
        title="When are Post-hoc Conceptual Explanations Identifiable?",
        authors="T. Leemann, M. Kirchhof, Y. Rong, E. Kasneci, G. Kasneci",
        year=2023,
        arxiv="2206.13872",
        task="identifiable directions of codes",
        about="Directions of a trained encoder's codes whose input gradients are disjoint (DMA) "
        "or orthogonal (IMA) are the true factors, whatever these are distributed as.",
        functions=(
            *("discover_concepts", "Concepts", "GuideMean", "jacobians"),
            *("closed_form_dma", "closed_form_ima", "concept_alignment"),
            *("mean_correlation", "mcc_permutation_test"),
        ),
        family="identifiability",
        departs=(
            "gradients are made 0 before each step, and steps fall to 0; the paper's code sums up "
            "the gradients of all steps",
            "steps are taken where gradients are white on average, from the same start: scales of "
            "the embedding change nothing, and IMA ends in fewer local minima",
            "IMA takes the best of five starts, and warns where ratios of gradients are equal",
            "Jacobians of some hundred rows are taken once, not anew in each step",
        ),
        limits=(
            "of codes that are no linear map of the factors there are no such directions, and the "
            "loss alone does not tell",
            "a direction may be a group of factors where there are fewer directions than factors",
            "IMA tells nothing of gradients that have the same ratio everywhere",
            "gradients of trained encoders are noisy, and those of dimensions that have collapsed "
            "are noise alone",
        ),
    ),
    "fid": MetricPaper(
        title="GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        authors="M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter",
        year=2017,
        arxiv="1706.08500",
        task="distance of generated images from real ones",
        about="The Frechet distance of Gaussian fits of features, with features that a user can "
        "look at and a correction of its bias.",
        functions=(),
        family="frechet",
    ),
    "umse": MetricPaper(
        title="Evaluating Unsupervised Denoising Requires Unsupervised Metrics",
        authors="A. Marcos-Morales, M. Leibovich, S. Mohan, J. L. Vincent, P. Haluai, M. Tan, "
        "P. Crozier, C. Fernandez-Granda",
        year=2023,
        arxiv="2210.05553",
        task="error of a denoiser without clean images",
        about="The mean squared error against unknown clean images, from further noisy copies "
        "alone, unbiased and with intervals.",
        functions=(),
        family="denoising",
    ),
    "vae_tracin": MetricPaper(
        title="Understanding Instance-based Interpretability of Variational Auto-Encoders",
        authors="Z. Kong, K. Chaudhuri",
        year=2021,
        arxiv="2105.14203",
        task="influence of training rows",
        about="Which training rows lowered the loss of a row most, by gradients at checkpoints of "
        "the training.",
        functions=(),
        family="influence",
    ),
}
