"""Metrics of a table of codes, such as those of disentanglement, and of what is generated."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.metrics.attributions import (
        GuideMean as GuideMean,
        jacobians as jacobians,
    )
    from ppl_models.inference.metrics.boosted_trees import (
        dci as dci,
        dci_hist as dci_hist,
    )
    from ppl_models.inference.metrics.by_modality import (
        modality_scores as modality_scores,
    )
    from ppl_models.inference.metrics.canonical import (
        CanonicalSpace as CanonicalSpace,
        canonical_space as canonical_space,
    )
    from ppl_models.inference.metrics.checkpoints import (
        Checkpoint as Checkpoint,
        Checkpoints as Checkpoints,
    )
    from ppl_models.inference.metrics.classifiers import (
        ImageClassifier as ImageClassifier,
        image_classifier as image_classifier,
    )
    from ppl_models.inference.metrics.code_table import (
        CodeTable as CodeTable,
        from_anndata as from_anndata,
        from_arrays as from_arrays,
    )
    from ppl_models.inference.metrics.coherence import (
        cross_coherence as cross_coherence,
    )
    from ppl_models.inference.metrics.concepts import (
        Concepts as Concepts,
        OrthogonalSolution as OrthogonalSolution,
        closed_form_dma as closed_form_dma,
        closed_form_ima as closed_form_ima,
        concept_alignment as concept_alignment,
        discover_concepts as discover_concepts,
    )
    from ppl_models.inference.metrics.decoding import (
        PairDecoder as PairDecoder,
        decoder as decoder,
    )
    from ppl_models.inference.metrics.denoisers import (
        Denoised as Denoised,
        denoise as denoise,
        denoising_scores as denoising_scores,
        subsample_references as subsample_references,
    )
    from ppl_models.inference.metrics.denoising import (
        UMSE as UMSE,
        mean_upsnr as mean_upsnr,
        psnr as psnr,
        umse as umse,
        umse_bootstrap as umse_bootstrap,
        umse_interval as umse_interval,
        umse_over_images as umse_over_images,
        upsnr as upsnr,
        upsnr_interval as upsnr_interval,
    )
    from ppl_models.inference.metrics.downstream_tasks import (
        downstream as downstream,
        fairness as fairness,
        reduced_downstream as reduced_downstream,
        strong_downstream as strong_downstream,
    )
    from ppl_models.inference.metrics.encoding import (
        encode as encode,
        is_redrawn as is_redrawn,
        sampler_of as sampler_of,
    )
    from ppl_models.inference.metrics.feature_distance import (
        FeatureDistance as FeatureDistance,
        FrechetDistance as FrechetDistance,
        distance_table as distance_table,
    )
    from ppl_models.inference.metrics.feature_files import (
        load_features as load_features,
        save_features as save_features,
    )
    from ppl_models.inference.metrics.feature_networks import (
        FeatureNetwork as FeatureNetwork,
        classifier_features as classifier_features,
        pca_features as pca_features,
        random_features as random_features,
    )
    from ppl_models.inference.metrics.few_shot import (
        blurred as blurred,
        few_shot_accuracy as few_shot_accuracy,
        latent_accuracy as latent_accuracy,
        nearest_mean_accuracy as nearest_mean_accuracy,
    )
    from ppl_models.inference.metrics.frechet import (
        Moments as Moments,
        extrapolated_distance as extrapolated_distance,
        frechet_bias as frechet_bias,
        frechet_distance as frechet_distance,
        kernel_distance as kernel_distance,
    )
    from ppl_models.inference.metrics.generated_images import (
        reconstruct_images as reconstruct_images,
        sample_images as sample_images,
    )
    from ppl_models.inference.metrics.generativeness import (
        counterfactual_generativeness as counterfactual_generativeness,
        donor_generativeness as donor_generativeness,
    )
    from ppl_models.inference.metrics.influences import (
        influence as influence,
        kde_influence as kde_influence,
    )
    from ppl_models.inference.metrics.information import (
        mig as mig,
        modularity as modularity,
        mutual_information as mutual_information,
    )
    from ppl_models.inference.metrics.information_entropy import (
        med as med,
        med_miller_madow as med_miller_madow,
    )
    from ppl_models.inference.metrics.interventional import (
        irs as irs,
        unconfoundedness as unconfoundedness,
    )
    from ppl_models.inference.metrics.linear_probes import (
        explicitness as explicitness,
        logistic_informativeness as logistic_informativeness,
        sap as sap,
        sap_continuous as sap_continuous,
    )
    from ppl_models.inference.metrics.matching import (
        PermutationTest as PermutationTest,
        mcc_permutation_test as mcc_permutation_test,
        mean_correlation as mean_correlation,
    )
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )
    from ppl_models.inference.metrics.sampler import (
        Sampler as Sampler,
    )
    from ppl_models.inference.metrics.suite import (
        GROUP as GROUP,
        METRICS as METRICS,
        STANDARD as STANDARD,
        attach as attach,
        evaluate as evaluate,
    )
    from ppl_models.inference.metrics.unsupervised import (
        udr as udr,
        unsupervised_scores as unsupervised_scores,
    )
    from ppl_models.inference.metrics.user_networks import (
        user_features as user_features,
    )
    from ppl_models.inference.metrics.votes import (
        beta_vae_score as beta_vae_score,
        factor_vae_score as factor_vae_score,
    )

_HOMES = {
    "CanonicalSpace": "canonical",
    "Checkpoint": "checkpoints",
    "Checkpoints": "checkpoints",
    "CodeTable": "code_table",
    "Concepts": "concepts",
    "Denoised": "denoisers",
    "FeatureDistance": "feature_distance",
    "FeatureNetwork": "feature_networks",
    "FrechetDistance": "feature_distance",
    "GROUP": "suite",
    "GuideMean": "attributions",
    "ImageClassifier": "classifiers",
    "METRICS": "suite",
    "Moments": "frechet",
    "OrthogonalSolution": "concepts",
    "PairDecoder": "decoding",
    "PermutationTest": "matching",
    "STANDARD": "suite",
    "Sampler": "sampler",
    "UMSE": "denoising",
    "attach": "suite",
    "beta_vae_score": "votes",
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "classifier_features": "feature_networks",
    "closed_form_dma": "concepts",
    "closed_form_ima": "concepts",
    "concept_alignment": "concepts",
    "counterfactual_generativeness": "generativeness",
    "cross_coherence": "coherence",
    "dci": "boosted_trees",
    "dci_hist": "boosted_trees",
    "decoder": "decoding",
    "denoise": "denoisers",
    "denoising_scores": "denoisers",
    "discover_concepts": "concepts",
    "distance_table": "feature_distance",
    "donor_generativeness": "generativeness",
    "downstream": "downstream_tasks",
    "encode": "encoding",
    "evaluate": "suite",
    "explicitness": "linear_probes",
    "extrapolated_distance": "frechet",
    "factor_vae_score": "votes",
    "fairness": "downstream_tasks",
    "few_shot_accuracy": "few_shot",
    "frechet_bias": "frechet",
    "frechet_distance": "frechet",
    "from_anndata": "code_table",
    "from_arrays": "code_table",
    "image_classifier": "classifiers",
    "influence": "influences",
    "irs": "interventional",
    "is_redrawn": "encoding",
    "jacobians": "attributions",
    "kde_influence": "influences",
    "kernel_distance": "frechet",
    "latent_accuracy": "few_shot",
    "load_features": "feature_files",
    "logistic_informativeness": "linear_probes",
    "mcc_permutation_test": "matching",
    "mean_correlation": "matching",
    "mean_upsnr": "denoising",
    "med": "information_entropy",
    "med_miller_madow": "information_entropy",
    "mig": "information",
    "modality_scores": "by_modality",
    "modularity": "information",
    "mutual_information": "information",
    "nearest_mean_accuracy": "few_shot",
    "pca_features": "feature_networks",
    "psnr": "denoising",
    "random_features": "feature_networks",
    "reconstruct_images": "generated_images",
    "reduced_downstream": "downstream_tasks",
    "relatedness": "related",
    "sample_images": "generated_images",
    "sampler_of": "encoding",
    "sap": "linear_probes",
    "sap_continuous": "linear_probes",
    "save_features": "feature_files",
    "strong_downstream": "downstream_tasks",
    "subsample_references": "denoisers",
    "udr": "unsupervised",
    "umse": "denoising",
    "umse_bootstrap": "denoising",
    "umse_interval": "denoising",
    "umse_over_images": "denoising",
    "unconfoundedness": "interventional",
    "unsupervised_scores": "unsupervised",
    "upsnr": "denoising",
    "upsnr_interval": "denoising",
    "user_features": "user_networks",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
