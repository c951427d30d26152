"""Metrics of a table of codes, such as those of disentanglement, and of what is generated."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.metrics.by_modality import modality_scores as modality_scores
    from ppl_models.inference.metrics.canonical import (
        CanonicalSpace as CanonicalSpace,
        canonical_space as canonical_space,
    )
    from ppl_models.inference.metrics.checkpoints import (
        Checkpoint as Checkpoint,
        Checkpoints as Checkpoints,
    )
    from ppl_models.inference.metrics.code_table import (
        CodeTable as CodeTable,
        from_arrays as from_arrays,
    )
    from ppl_models.inference.metrics.coherence import cross_coherence as cross_coherence
    from ppl_models.inference.metrics.few_shot import (
        blurred as blurred,
        few_shot_accuracy as few_shot_accuracy,
        latent_accuracy as latent_accuracy,
        nearest_mean_accuracy as nearest_mean_accuracy,
    )
    from ppl_models.inference.metrics.influences import (
        influence as influence,
        kde_influence as kde_influence,
    )
    from ppl_models.inference.metrics.related import (
        relatedness as relatedness,
        wasserstein as wasserstein,
    )

_HOMES = {
    "CanonicalSpace": "canonical",
    "Checkpoint": "checkpoints",
    "Checkpoints": "checkpoints",
    "CodeTable": "code_table",
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "cross_coherence": "coherence",
    "few_shot_accuracy": "few_shot",
    "from_arrays": "code_table",
    "influence": "influences",
    "kde_influence": "influences",
    "latent_accuracy": "few_shot",
    "modality_scores": "by_modality",
    "nearest_mean_accuracy": "few_shot",
    "relatedness": "related",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
