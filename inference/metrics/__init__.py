"""Metrics of a table of codes, such as those of disentanglement, and of what is generated."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
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
    from ppl_models.inference.metrics.coherence import (
        cross_coherence as cross_coherence,
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
    from ppl_models.inference.metrics.disentanglement.aggregate_kl import (
        kl_decomposition as kl_decomposition,
    )
    from ppl_models.inference.metrics.disentanglement.attributions import (
        GuideMean as GuideMean,
        jacobians as jacobians,
    )
    from ppl_models.inference.metrics.disentanglement.between_seeds import (
        canonical_correlation as canonical_correlation,
        held_out_correlation as held_out_correlation,
        seed_agreement as seed_agreement,
        seed_permutation_test as seed_permutation_test,
    )
    from ppl_models.inference.metrics.disentanglement.block_r2 import (
        BlockScores as BlockScores,
        block_r2 as block_r2,
    )
    from ppl_models.inference.metrics.disentanglement.boosted_trees import (
        dci as dci,
        dci_hist as dci_hist,
    )
    from ppl_models.inference.metrics.disentanglement.code_table import (
        CodeTable as CodeTable,
        from_anndata as from_anndata,
        from_arrays as from_arrays,
    )
    from ppl_models.inference.metrics.disentanglement.concepts import (
        Concepts as Concepts,
        OrthogonalSolution as OrthogonalSolution,
        closed_form_dma as closed_form_dma,
        closed_form_ima as closed_form_ima,
        concept_alignment as concept_alignment,
        discover_concepts as discover_concepts,
    )
    from ppl_models.inference.metrics.disentanglement.decoding import (
        PairDecoder as PairDecoder,
        decoder as decoder,
    )
    from ppl_models.inference.metrics.disentanglement.downstream_tasks import (
        downstream as downstream,
        fairness as fairness,
        reduced_downstream as reduced_downstream,
        strong_downstream as strong_downstream,
    )
    from ppl_models.inference.metrics.disentanglement.encoding import (
        encode as encode,
        is_redrawn as is_redrawn,
        sampler_of as sampler_of,
    )
    from ppl_models.inference.metrics.disentanglement.generativeness import (
        counterfactual_generativeness as counterfactual_generativeness,
        donor_generativeness as donor_generativeness,
    )
    from ppl_models.inference.metrics.disentanglement.hierarchy_scores import (
        hierarchical_dci as hierarchical_dci,
    )
    from ppl_models.inference.metrics.disentanglement.information import (
        mig as mig,
        modularity as modularity,
        mutual_information as mutual_information,
    )
    from ppl_models.inference.metrics.disentanglement.information_entropy import (
        med as med,
        med_miller_madow as med_miller_madow,
    )
    from ppl_models.inference.metrics.disentanglement.interventional import (
        irs as irs,
        unconfoundedness as unconfoundedness,
    )
    from ppl_models.inference.metrics.disentanglement.linear_probes import (
        explicitness as explicitness,
        logistic_informativeness as logistic_informativeness,
        sap as sap,
        sap_continuous as sap_continuous,
    )
    from ppl_models.inference.metrics.disentanglement.matching import (
        PermutationTest as PermutationTest,
        Scores as Scores,
        correlations as correlations,
        matching as matching,
        mcc_permutation_test as mcc_permutation_test,
        mean_correlation as mean_correlation,
        set_scores as set_scores,
    )
    from ppl_models.inference.metrics.disentanglement.sampler import (
        Sampler as Sampler,
    )
    from ppl_models.inference.metrics.disentanglement.suite import (
        GROUP as GROUP,
        METRICS as METRICS,
        STANDARD as STANDARD,
        attach as attach,
        evaluate as evaluate,
    )
    from ppl_models.inference.metrics.disentanglement.support_factorisation import (
        fos as fos,
    )
    from ppl_models.inference.metrics.disentanglement.unsupervised import (
        udr as udr,
        unsupervised_scores as unsupervised_scores,
    )
    from ppl_models.inference.metrics.disentanglement.votes import (
        beta_vae_score as beta_vae_score,
        factor_vae_score as factor_vae_score,
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
    from ppl_models.inference.metrics.influences import (
        influence as influence,
        kde_influence as kde_influence,
    )
    from ppl_models.inference.metrics.perceived import (
        perceived_distances as perceived_distances,
    )
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )
    from ppl_models.inference.metrics.user_networks import (
        user_features as user_features,
    )

_HOMES = {
    "BlockScores": "disentanglement.block_r2",
    "CanonicalSpace": "canonical",
    "Checkpoint": "checkpoints",
    "Checkpoints": "checkpoints",
    "CodeTable": "disentanglement.code_table",
    "Concepts": "disentanglement.concepts",
    "Denoised": "denoisers",
    "FeatureDistance": "feature_distance",
    "FeatureNetwork": "feature_networks",
    "FrechetDistance": "feature_distance",
    "GROUP": "disentanglement.suite",
    "GuideMean": "disentanglement.attributions",
    "ImageClassifier": "classifiers",
    "METRICS": "disentanglement.suite",
    "Moments": "frechet",
    "OrthogonalSolution": "disentanglement.concepts",
    "PairDecoder": "disentanglement.decoding",
    "PermutationTest": "disentanglement.matching",
    "STANDARD": "disentanglement.suite",
    "Sampler": "disentanglement.sampler",
    "Scores": "disentanglement.matching",
    "UMSE": "denoising",
    "attach": "disentanglement.suite",
    "beta_vae_score": "disentanglement.votes",
    "block_r2": "disentanglement.block_r2",
    "blurred": "few_shot",
    "canonical_correlation": "disentanglement.between_seeds",
    "canonical_space": "canonical",
    "classifier_features": "feature_networks",
    "closed_form_dma": "disentanglement.concepts",
    "closed_form_ima": "disentanglement.concepts",
    "concept_alignment": "disentanglement.concepts",
    "correlations": "disentanglement.matching",
    "counterfactual_generativeness": "disentanglement.generativeness",
    "cross_coherence": "coherence",
    "dci": "disentanglement.boosted_trees",
    "dci_hist": "disentanglement.boosted_trees",
    "decoder": "disentanglement.decoding",
    "denoise": "denoisers",
    "denoising_scores": "denoisers",
    "discover_concepts": "disentanglement.concepts",
    "distance_table": "feature_distance",
    "donor_generativeness": "disentanglement.generativeness",
    "downstream": "disentanglement.downstream_tasks",
    "encode": "disentanglement.encoding",
    "evaluate": "disentanglement.suite",
    "explicitness": "disentanglement.linear_probes",
    "extrapolated_distance": "frechet",
    "factor_vae_score": "disentanglement.votes",
    "fairness": "disentanglement.downstream_tasks",
    "few_shot_accuracy": "few_shot",
    "fos": "disentanglement.support_factorisation",
    "frechet_bias": "frechet",
    "frechet_distance": "frechet",
    "from_anndata": "disentanglement.code_table",
    "from_arrays": "disentanglement.code_table",
    "held_out_correlation": "disentanglement.between_seeds",
    "hierarchical_dci": "disentanglement.hierarchy_scores",
    "image_classifier": "classifiers",
    "influence": "influences",
    "irs": "disentanglement.interventional",
    "is_redrawn": "disentanglement.encoding",
    "jacobians": "disentanglement.attributions",
    "kde_influence": "influences",
    "kernel_distance": "frechet",
    "kl_decomposition": "disentanglement.aggregate_kl",
    "latent_accuracy": "few_shot",
    "load_features": "feature_files",
    "logistic_informativeness": "disentanglement.linear_probes",
    "matching": "disentanglement.matching",
    "mcc_permutation_test": "disentanglement.matching",
    "mean_correlation": "disentanglement.matching",
    "mean_upsnr": "denoising",
    "med": "disentanglement.information_entropy",
    "med_miller_madow": "disentanglement.information_entropy",
    "mig": "disentanglement.information",
    "modality_scores": "by_modality",
    "modularity": "disentanglement.information",
    "mutual_information": "disentanglement.information",
    "nearest_mean_accuracy": "few_shot",
    "pca_features": "feature_networks",
    "perceived_distances": "perceived",
    "psnr": "denoising",
    "random_features": "feature_networks",
    "reconstruct_images": "generated_images",
    "reduced_downstream": "disentanglement.downstream_tasks",
    "relatedness": "related",
    "sample_images": "generated_images",
    "sampler_of": "disentanglement.encoding",
    "sap": "disentanglement.linear_probes",
    "sap_continuous": "disentanglement.linear_probes",
    "save_features": "feature_files",
    "seed_agreement": "disentanglement.between_seeds",
    "seed_permutation_test": "disentanglement.between_seeds",
    "set_scores": "disentanglement.matching",
    "strong_downstream": "disentanglement.downstream_tasks",
    "subsample_references": "denoisers",
    "udr": "disentanglement.unsupervised",
    "umse": "denoising",
    "umse_bootstrap": "denoising",
    "umse_interval": "denoising",
    "umse_over_images": "denoising",
    "unconfoundedness": "disentanglement.interventional",
    "unsupervised_scores": "disentanglement.unsupervised",
    "upsnr": "denoising",
    "upsnr_interval": "denoising",
    "user_features": "user_networks",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
