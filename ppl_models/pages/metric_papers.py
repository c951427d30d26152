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
        picture: What the picture on its docs page shows; none without.
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
    picture: str = ""


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
        functions=(
            *("evaluate", "encode", "from_arrays", "from_anndata", "mutual_information", "mig"),
            *("modularity", "explicitness", "dci", "sap", "sap_continuous", "irs"),
            *("beta_vae_score", "factor_vae_score", "unsupervised_scores", "udr", "downstream"),
            *("reduced_downstream", "strong_downstream", "fairness"),
        ),
        family="codes",
        departs=(
            "rows to fit on and rows to ask are drawn without replacement, none of them twice",
            "edge cases have documented values, where the study's code fails or divides by 0",
            "FactorVAE and IRS count codes that are kept; the study's code gives a mask's length, "
            "or a sum",
            "explicitness is of multinomial regressions; older ones were one against the rest",
        ),
        limits=(
            "on rows whose factors are correlated all of them flatter",
            "bins, numbers of rows and classifiers are part of each metric: values of other "
            "settings are no values to compare with",
        ),
    ),
    "med": MetricPaper(
        title="An Empirical Study on Disentanglement of Negative-free Contrastive Learning",
        authors="J. Cao, R. Nai, Q. Yang, J. Huang, Y. Gao",
        year=2022,
        arxiv="2206.04756",
        task="disentanglement of wide codes",
        about="Disentanglement from mutual information alone, so that codes of a thousand "
        "dimensions can be judged, and of the few best codes of each factor.",
        functions=("med", "med_miller_madow", "logistic_informativeness"),
        family="codes",
        departs=(
            "a correction of the bias of mutual information (Miller and Madow) stands beside it "
            "under its own name",
            "factors that no code tells are left out; the released code divides 0 by 0",
        ),
        limits=(
            "codes that tell nothing lower MED, the more of them there are and the fewer the "
            "rows: compare it at equal numbers of both, and top-k across widths",
        ),
    ),
    "causal_metrics": MetricPaper(
        title="On Causally Disentangled Representations",
        authors="A. G. Reddy, B. Godfrey L, V. N. Balasubramanian",
        year=2022,
        arxiv="2112.05746",
        task="causal disentanglement",
        about="Where factors are confounded, each should own codes of its own (UC), and setting "
        "these should change that factor in the decoded image and nothing else (CG).",
        functions=("counterfactual_generativeness", "unconfoundedness", "donor_generativeness"),
        family="causal",
        departs=(
            "the codes of a factor are the largest in order; the released code is right for one",
            "the classifier has a softmax for each factor, not sigmoids",
            "CANDLE is drawn here (`candle_like`): its support, not its pictures",
        ),
        limits=(
            "UC is 1 for mixed codes, too: only CG, and both over rho, tell",
            "IRS, which tells whose codes are whose, takes factors to be independent",
        ),
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
        functions=(
            *("FrechetDistance", "distance_table", "classifier_features", "random_features"),
            *("pca_features", "user_features", "save_features", "load_features"),
            *("sample_images", "reconstruct_images", "frechet_distance", "frechet_bias"),
            *("extrapolated_distance", "kernel_distance"),
        ),
        family="frechet",
        departs=(
            "features of a network that is trained or drawn here, in place of Inception's, which "
            "would be a download; a module of the user's may be Inception",
            "the cross term by eigenvalues of symmetric matrices or a nuclear norm, in place of a "
            "general matrix root whose complex part is cut",
            "the bias at the numbers of images beside the value; the limit of many images (Chong "
            "and Forsyth 2020) from a tenth of the images on, in place of 5,000",
            "KID (Binkowski et al. 2018) of all rows in place of a mean over subsets",
        ),
        limits=(
            "values compare models under one digest of one network, and with no published FID",
            "the limit of many images keeps the bias of the reference, and the error of the "
            "images' own mean",
        ),
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
        functions=(
            *("umse", "umse_over_images", "umse_interval", "umse_bootstrap", "upsnr"),
            *("mean_upsnr", "upsnr_interval", "subsample_references", "denoise"),
            "denoising_scores",
        ),
        family="denoising",
        departs=(
            "a mode that averages all references beside the paper's estimator, which stays the "
            "default",
            "where uMSE is not positive, uPSNR is NaN with a warning",
        ),
        limits=(
            "noise that is correlated between pixels makes standard errors and intervals of "
            "single images too small",
            "references that are subsampled from one image are biased where it is rough from "
            "pixel to pixel, and uMSE cannot tell",
            "errors that are no noise of mean 0, such as occlusion, count as part of the image",
        ),
    ),
    "vae_tracin": MetricPaper(
        title="Understanding Instance-based Interpretability of Variational Auto-Encoders",
        authors="Z. Kong, K. Chaudhuri",
        year=2021,
        arxiv="2105.14203",
        task="influence of training rows",
        about="Which training rows lowered the loss of a row most, by gradients at checkpoints of "
        "the training.",
        functions=("influence", "Checkpoints", "Checkpoint", "kde_influence"),
        family="influence",
        departs=(
            "The loss is the one of the training; the authors' code trains with a cross-entropy "
            "on MNIST and takes gradients of a squared error",
            "A checkpoint weighs rate x steps / N, without the batch size: steps go along the "
            "mean of a batch's losses, and the influences then add up to what the loss fell by",
            "Each row has draws of its own; beside the self-influence stands a product of two "
            "halves of them, which the noise does not make larger",
            "Rows are taken at once, and gradients may be replaced by a random projection",
        ),
        limits=(
            "Objectives whose rows look at each other have no loss of a row, and are refused",
            "With other optimisers than plain gradient descent the weights are a heuristic",
            "Of closed forms that of kernel densities alone; none of neighbours or mixtures",
        ),
    ),
    "boxhead": MetricPaper(
        title="Boxhead: A Dataset for Learning Hierarchical Representations",
        authors="Y. Chen, A. Dittadi, F. Traeuble, S. Bauer, B. Schoelkopf",
        year=2021,
        arxiv="2110.03628",
        task="disentanglement of a hierarchy of factors",
        about="Pictures whose factors form a hierarchy, an overall hue and four hues about it "
        '(`data.load("boxhead")`), and scores that judge codes of the lower factors apart from '
        "those of all others. Models are `ladder_vae` and `vlae` with `fade_in`, `beta_vae` and "
        "`beta_tcvae`.",
        functions=("hierarchical_dci",),
        family="codes",
        departs=(
            "pictures are cast with own rays, with a headlight and without shadows, from the laws "
            "and the geometry of the released generator: pixels are not the published ones",
            "hues are told modulo 1: hue 0 and hue 1, two labels of the generator, are one class",
            "with `periods` hues are told as points on a circle, in place of numbers whose ends "
            "are far apart and of one colour; without, class numbers, as in the released code",
            "which folder of the released code the paper calls Boxhead 1, 2 or 3 is not verified: "
            "the variants have names of their own",
        ),
        limits=(
            "R is relative: codes that tell nothing of a factor still share its column of R, so "
            "that a code may be a child code by noise; read `r2_test` beside the scores",
            "a code that tells nothing at all is a child code by the tie, and counts among the "
            "codes that completeness is relative to",
            "it has to be told which factors are children, and is thus no part of `evaluate`",
        ),
        picture="the variants: eight pictures of each, the overall hue over the cube's, and a "
        "tile's hue over the overall one",
    ),
}
