"""Metrics of a table of codes, such as those of disentanglement, and of what is generated."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.metrics.by_modality import modality_scores as modality_scores
    from ppl_models.inference.metrics.canonical import (
        CanonicalSpace as CanonicalSpace,
        canonical_space as canonical_space,
    )
    from ppl_models.inference.metrics.code_table import (
        CodeTable as CodeTable,
        from_anndata as from_anndata,
        from_arrays as from_arrays,
    )
    from ppl_models.inference.metrics.coherence import cross_coherence as cross_coherence
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
    from ppl_models.inference.metrics.encoding import encode as encode
    from ppl_models.inference.metrics.few_shot import (
        blurred as blurred,
        few_shot_accuracy as few_shot_accuracy,
        latent_accuracy as latent_accuracy,
        nearest_mean_accuracy as nearest_mean_accuracy,
    )
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )

_HOMES = {
    "CanonicalSpace": "canonical",
    "CodeTable": "code_table",
    "Denoised": "denoisers",
    "UMSE": "denoising",
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "cross_coherence": "coherence",
    "denoise": "denoisers",
    "denoising_scores": "denoisers",
    "encode": "encoding",
    "few_shot_accuracy": "few_shot",
    "from_anndata": "code_table",
    "from_arrays": "code_table",
    "latent_accuracy": "few_shot",
    "mean_upsnr": "denoising",
    "modality_scores": "by_modality",
    "nearest_mean_accuracy": "few_shot",
    "psnr": "denoising",
    "relatedness": "related",
    "subsample_references": "denoisers",
    "umse": "denoising",
    "umse_bootstrap": "denoising",
    "umse_interval": "denoising",
    "umse_over_images": "denoising",
    "upsnr": "denoising",
    "upsnr_interval": "denoising",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
