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
    from ppl_models.inference.metrics.code_table import (
        CodeTable as CodeTable,
        from_anndata as from_anndata,
        from_arrays as from_arrays,
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
    from ppl_models.inference.metrics.encoding import (
        encode as encode,
        is_redrawn as is_redrawn,
        sampler_of as sampler_of,
    )
    from ppl_models.inference.metrics.few_shot import (
        blurred as blurred,
        few_shot_accuracy as few_shot_accuracy,
        latent_accuracy as latent_accuracy,
        nearest_mean_accuracy as nearest_mean_accuracy,
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
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )
    from ppl_models.inference.metrics.sampler import Sampler as Sampler
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
    from ppl_models.inference.metrics.votes import (
        beta_vae_score as beta_vae_score,
        factor_vae_score as factor_vae_score,
    )

_HOMES = {
    "CanonicalSpace": "canonical",
    "CodeTable": "code_table",
    "Denoised": "denoisers",
    "GROUP": "suite",
    "METRICS": "suite",
    "STANDARD": "suite",
    "Sampler": "sampler",
    "UMSE": "denoising",
    "attach": "suite",
    "beta_vae_score": "votes",
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "cross_coherence": "coherence",
    "denoise": "denoisers",
    "denoising_scores": "denoisers",
    "encode": "encoding",
    "evaluate": "suite",
    "explicitness": "linear_probes",
    "factor_vae_score": "votes",
    "few_shot_accuracy": "few_shot",
    "from_anndata": "code_table",
    "from_arrays": "code_table",
    "irs": "interventional",
    "is_redrawn": "encoding",
    "latent_accuracy": "few_shot",
    "logistic_informativeness": "linear_probes",
    "mean_upsnr": "denoising",
    "med": "information_entropy",
    "med_miller_madow": "information_entropy",
    "mig": "information",
    "modality_scores": "by_modality",
    "modularity": "information",
    "mutual_information": "information",
    "nearest_mean_accuracy": "few_shot",
    "psnr": "denoising",
    "relatedness": "related",
    "sampler_of": "encoding",
    "sap": "linear_probes",
    "sap_continuous": "linear_probes",
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
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
