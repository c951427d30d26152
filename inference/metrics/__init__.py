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
<<<<<<< HEAD
    from ppl_models.inference.metrics.coherence import cross_coherence as cross_coherence
    from ppl_models.inference.metrics.decoding import (
        PairDecoder as PairDecoder,
        decoder as decoder,
    )
    from ppl_models.inference.metrics.encoding import encode as encode
=======
    from ppl_models.inference.metrics.coherence import (
        cross_coherence as cross_coherence,
    )
    from ppl_models.inference.metrics.encoding import (
        encode as encode,
        is_redrawn as is_redrawn,
        sampler_of as sampler_of,
    )
>>>>>>> main
    from ppl_models.inference.metrics.few_shot import (
        blurred as blurred,
        few_shot_accuracy as few_shot_accuracy,
        latent_accuracy as latent_accuracy,
        nearest_mean_accuracy as nearest_mean_accuracy,
    )
<<<<<<< HEAD
    from ppl_models.inference.metrics.generativeness import (
        counterfactual_generativeness as counterfactual_generativeness,
        donor_generativeness as donor_generativeness,
=======
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
>>>>>>> main
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
<<<<<<< HEAD
    "PairDecoder": "decoding",
=======
    "GROUP": "suite",
    "METRICS": "suite",
    "STANDARD": "suite",
    "Sampler": "sampler",
    "attach": "suite",
    "beta_vae_score": "votes",
>>>>>>> main
    "blurred": "few_shot",
    "canonical_space": "canonical",
    "counterfactual_generativeness": "generativeness",
    "cross_coherence": "coherence",
    "decoder": "decoding",
    "donor_generativeness": "generativeness",
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
    "med": "information_entropy",
    "med_miller_madow": "information_entropy",
    "mig": "information",
    "modality_scores": "by_modality",
    "modularity": "information",
    "mutual_information": "information",
    "nearest_mean_accuracy": "few_shot",
    "relatedness": "related",
    "sampler_of": "encoding",
    "sap": "linear_probes",
    "sap_continuous": "linear_probes",
    "udr": "unsupervised",
    "unconfoundedness": "interventional",
    "unsupervised_scores": "unsupervised",
    "wasserstein": "related",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
