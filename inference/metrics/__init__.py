"""Metrics of a table of codes, such as those of disentanglement, and of what is generated."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.metrics.attributions import (
        GuideMean as GuideMean,
        jacobians as jacobians,
    )
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
    from ppl_models.inference.metrics.concepts import (
        Concepts as Concepts,
        OrthogonalSolution as OrthogonalSolution,
        closed_form_dma as closed_form_dma,
        closed_form_ima as closed_form_ima,
        concept_alignment as concept_alignment,
        discover_concepts as discover_concepts,
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
    from ppl_models.inference.metrics.matching import (
        PermutationTest as PermutationTest,
        mcc_permutation_test as mcc_permutation_test,
        mean_correlation as mean_correlation,
    )
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )

_HOMES = {
    "CanonicalSpace": "canonical",
    "CodeTable": "code_table",
    "Concepts": "concepts",
    "GuideMean": "attributions",
    "OrthogonalSolution": "concepts",
    "PermutationTest": "matching",
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "closed_form_dma": "concepts",
    "closed_form_ima": "concepts",
    "concept_alignment": "concepts",
    "cross_coherence": "coherence",
    "discover_concepts": "concepts",
    "encode": "encoding",
    "few_shot_accuracy": "few_shot",
    "from_anndata": "code_table",
    "from_arrays": "code_table",
    "is_redrawn": "encoding",
    "jacobians": "attributions",
    "latent_accuracy": "few_shot",
    "mcc_permutation_test": "matching",
    "mean_correlation": "matching",
    "modality_scores": "by_modality",
    "nearest_mean_accuracy": "few_shot",
    "relatedness": "related",
    "sampler_of": "encoding",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
