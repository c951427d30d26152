"""Objectives, training, sampling, export and diagnostics, for any pair."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.diagnostics.calibration import (
        calibration_error as calibration_error,
        label_calibration as label_calibration,
        sbc as sbc,
    )
    from ppl_models.inference.diagnostics.collapse import (
        active_units as active_units,
        aggregate_posterior as aggregate_posterior,
    )
    from ppl_models.inference.diagnostics.counterfactual_bias import (
        CounterfactualBias as CounterfactualBias,
        counterfactual_bias as counterfactual_bias,
        counterfactual_images as counterfactual_images,
        logit_difference as logit_difference,
    )
    from ppl_models.inference.diagnostics.counterfactual_checks import (
        MaskCalibration as MaskCalibration,
        mask_calibration as mask_calibration,
    )
    from ppl_models.inference.diagnostics.debug import (
        Check as Check,
        Report as Report,
        debug as debug,
    )
    from ppl_models.inference.diagnostics.density_checks import (
        attribute_coverage as attribute_coverage,
        code_spread as code_spread,
        probe_accuracy as probe_accuracy,
    )
    from ppl_models.inference.diagnostics.gaps import (
        against_nuts as against_nuts,
        amortisation_gap as amortisation_gap,
        held_out as held_out,
    )
    from ppl_models.inference.diagnostics.methods import (
        Method as Method,
        Methods as Methods,
        methods as methods,
    )
    from ppl_models.inference.diagnostics.restarts import (
        agreement as agreement,
    )
    from ppl_models.inference.diagnostics.verdict import (
        Verdict as Verdict,
        verdict as verdict,
    )
    from ppl_models.inference.objectives.base import (
        Objective as Objective,
    )
    from ppl_models.inference.objectives.blurred_error import (
        BlurredError as BlurredError,
    )
    from ppl_models.inference.objectives.characteristic import (
        CharacteristicELBO as CharacteristicELBO,
    )
    from ppl_models.inference.objectives.classification import (
        Classification as Classification,
    )
    from ppl_models.inference.objectives.code_terms.code_covariance import (
        CodeCovariance as CodeCovariance,
    )
    from ppl_models.inference.objectives.code_terms.distance_correlation import (
        DistanceCorrelation as DistanceCorrelation,
    )
    from ppl_models.inference.objectives.code_terms.gaussian_information import (
        GaussianInformation as GaussianInformation,
        gaussian_information as gaussian_information,
    )
    from ppl_models.inference.objectives.code_terms.guided_attributes import (
        AttributeReaders as AttributeReaders,
        Excitation as Excitation,
        Inhibition as Inhibition,
        guided_attributes as guided_attributes,
    )
    from ppl_models.inference.objectives.code_terms.hausdorff_support import (
        HausdorffSupport as HausdorffSupport,
        SupportScale as SupportScale,
        support_distance as support_distance,
    )
    from ppl_models.inference.objectives.code_terms.independent_codes import (
        ExchangedCritic as ExchangedCritic,
        IndependentCodes as IndependentCodes,
        independent_codes as independent_codes,
    )
    from ppl_models.inference.objectives.code_terms.permuted_codes import (
        PermutedCritic as PermutedCritic,
        permuted_codes as permuted_codes,
    )
    from ppl_models.inference.objectives.code_terms.predictors import (
        Predictability as Predictability,
        PredictionError as PredictionError,
        Predictors as Predictors,
        predictors_of as predictors_of,
    )
    from ppl_models.inference.objectives.code_terms.total_correlation import (
        KLParts as KLParts,
        TotalCorrelation as TotalCorrelation,
        kl_parts as kl_parts,
    )
    from ppl_models.inference.objectives.consistency import (
        Consistency as Consistency,
    )
    from ppl_models.inference.objectives.density_ratio import (
        DensityRatio as DensityRatio,
        Encoded as Encoded,
        Generated as Generated,
        LogisticCritic as LogisticCritic,
        density_ratio as density_ratio,
    )
    from ppl_models.inference.objectives.elbo import (
        ELBO as ELBO,
        EnumeratedELBO as EnumeratedELBO,
    )
    from ppl_models.inference.objectives.emphasis import (
        Emphasis as Emphasis,
    )
    from ppl_models.inference.objectives.iwelbo import (
        IWELBO as IWELBO,
    )
    from ppl_models.inference.objectives.kl_terms import (
        Capacity as Capacity,
        FreeBits as FreeBits,
    )
    from ppl_models.inference.objectives.margins import (
        Balance as Balance,
        Hat as Hat,
        Hinge as Hinge,
    )
    from ppl_models.inference.objectives.max_min import (
        max_min as max_min,
    )
    from ppl_models.inference.objectives.moved import (
        Imputed as Imputed,
        LeftOut as LeftOut,
    )
    from ppl_models.inference.objectives.moving_average import (
        moving_average as moving_average,
        target_of as target_of,
    )
    from ppl_models.inference.objectives.mutual_supervision import (
        MutualSupervision as MutualSupervision,
    )
    from ppl_models.inference.objectives.penalty import (
        Penalty as Penalty,
    )
    from ppl_models.inference.objectives.relaxed import (
        RelaxedELBO as RelaxedELBO,
    )
    from ppl_models.inference.objectives.renyi import (
        Renyi as Renyi,
    )
    from ppl_models.inference.objectives.schedule import (
        Anneal as Anneal,
        Progress as Progress,
    )
    from ppl_models.inference.objectives.scheduled import (
        scheduled as scheduled,
    )
    from ppl_models.inference.objectives.score_function import (
        ScoreELBO as ScoreELBO,
    )
    from ppl_models.inference.objectives.self_normalised import (
        SelfNormalisedELBO as SelfNormalisedELBO,
        supervision as supervision,
    )
    from ppl_models.inference.objectives.stage import (
        Player as Player,
        Stage as Stage,
        Training as Training,
    )
    from ppl_models.inference.objectives.stop_gradient import (
        StopGradient as StopGradient,
    )
    from ppl_models.inference.objectives.stratified import (
        Stratified as Stratified,
    )
    from ppl_models.inference.objectives.subsets import (
        Subsets as Subsets,
    )
    from ppl_models.inference.objectives.swapped_labels import (
        SwappedLabels as SwappedLabels,
        swapped_labels as swapped_labels,
    )
    from ppl_models.inference.objectives.tmc import (
        TMC as TMC,
    )
    from ppl_models.inference.objectives.wake_sleep import (
        WakeSleep as WakeSleep,
    )
    from ppl_models.inference.objectives.weighted import (
        Weighted as Weighted,
    )
    from ppl_models.inference.posterior.axioms import (
        composition as composition,
        effectiveness as effectiveness,
        non_descendants as non_descendants,
        null_intervention as null_intervention,
        reversibility as reversibility,
    )
    from ppl_models.inference.posterior.component_order import (
        relabelled as relabelled,
    )
    from ppl_models.inference.posterior.prediction import (
        bound_per_row as bound_per_row,
        error as error,
        errors as errors,
        label_probabilities as label_probabilities,
        loss_per_row as loss_per_row,
    )
    from ppl_models.inference.posterior.second_classifier import (
        Secondary as Secondary,
        code_features as code_features,
        exchanged_features as exchanged_features,
    )
    from ppl_models.inference.posterior.support import (
        check_data as check_data,
    )
    from ppl_models.inference.sampling.acquisitions import (
        bald as bald,
        entropy as entropy,
    )
    from ppl_models.inference.sampling.evidence import (
        log_evidence as log_evidence,
    )
    from ppl_models.inference.sampling.gibbs import (
        gibbs_posterior as gibbs_posterior,
        gibbs_predict as gibbs_predict,
    )
    from ppl_models.inference.sampling.importance import (
        importance as importance,
        sir as sir,
    )
    from ppl_models.inference.sampling.maximum import (
        map as map,
    )
    from ppl_models.inference.sampling.mcmc import (
        hmc as hmc,
        nuts as nuts,
    )
    from ppl_models.inference.sampling.refine import (
        bad_rows as bad_rows,
        refine as refine,
        replaced as replaced,
    )
    from ppl_models.inference.sampling.set_likelihood import (
        set_likelihood as set_likelihood,
    )
    from ppl_models.inference.traces.codes import (
        Codes as Codes,
    )
    from ppl_models.inference.traces.evaluation import (
        Evaluation as Evaluation,
    )
    from ppl_models.inference.traces.global_posteriors import (
        global_posteriors as global_posteriors,
    )
    from ppl_models.inference.traces.sites import (
        UnhandledSite as UnhandledSite,
    )
    from ppl_models.inference.traces.weights import (
        Weights as Weights,
    )
    from ppl_models.inference.training.active_learning import (
        active_learning as active_learning,
    )
    from ppl_models.inference.training.curve_loggers import (
        CSVLogger as CSVLogger,
        TensorBoard as TensorBoard,
    )
    from ppl_models.inference.training.fit import (
        fit as fit,
    )
    from ppl_models.inference.training.not_finite import (
        NotFinite as NotFinite,
    )
    from ppl_models.inference.training.run import (
        Run as Run,
        load as load,
    )
    from ppl_models.inference.training.run_folder import (
        RunFolderError as RunFolderError,
    )
    from ppl_models.inference.training.stopping import (
        StopTraining as StopTraining,
    )

_HOMES = {
    "Anneal": "objectives.schedule",
    "AttributeReaders": "objectives.code_terms.guided_attributes",
    "Balance": "objectives.margins",
    "BlurredError": "objectives.blurred_error",
    "CSVLogger": "training.curve_loggers",
    "Capacity": "objectives.kl_terms",
    "CharacteristicELBO": "objectives.characteristic",
    "Check": "diagnostics.debug",
    "Classification": "objectives.classification",
    "CodeCovariance": "objectives.code_terms.code_covariance",
    "Codes": "traces.codes",
    "Consistency": "objectives.consistency",
    "CounterfactualBias": "diagnostics.counterfactual_bias",
    "DensityRatio": "objectives.density_ratio",
    "DistanceCorrelation": "objectives.code_terms.distance_correlation",
    "ELBO": "objectives.elbo",
    "Emphasis": "objectives.emphasis",
    "Encoded": "objectives.density_ratio",
    "EnumeratedELBO": "objectives.elbo",
    "Evaluation": "traces.evaluation",
    "ExchangedCritic": "objectives.code_terms.independent_codes",
    "Excitation": "objectives.code_terms.guided_attributes",
    "FreeBits": "objectives.kl_terms",
    "GaussianInformation": "objectives.code_terms.gaussian_information",
    "Generated": "objectives.density_ratio",
    "Hat": "objectives.margins",
    "HausdorffSupport": "objectives.code_terms.hausdorff_support",
    "Hinge": "objectives.margins",
    "IWELBO": "objectives.iwelbo",
    "Imputed": "objectives.moved",
    "IndependentCodes": "objectives.code_terms.independent_codes",
    "Inhibition": "objectives.code_terms.guided_attributes",
    "KLParts": "objectives.code_terms.total_correlation",
    "LeftOut": "objectives.moved",
    "LogisticCritic": "objectives.density_ratio",
    "MaskCalibration": "diagnostics.counterfactual_checks",
    "Method": "diagnostics.methods",
    "Methods": "diagnostics.methods",
    "MutualSupervision": "objectives.mutual_supervision",
    "NotFinite": "training.not_finite",
    "Objective": "objectives.base",
    "Penalty": "objectives.penalty",
    "PermutedCritic": "objectives.code_terms.permuted_codes",
    "Player": "objectives.stage",
    "Predictability": "objectives.code_terms.predictors",
    "PredictionError": "objectives.code_terms.predictors",
    "Predictors": "objectives.code_terms.predictors",
    "Progress": "objectives.schedule",
    "RelaxedELBO": "objectives.relaxed",
    "Renyi": "objectives.renyi",
    "Report": "diagnostics.debug",
    "Run": "training.run",
    "RunFolderError": "training.run_folder",
    "ScoreELBO": "objectives.score_function",
    "Secondary": "posterior.second_classifier",
    "SelfNormalisedELBO": "objectives.self_normalised",
    "Stage": "objectives.stage",
    "StopGradient": "objectives.stop_gradient",
    "StopTraining": "training.stopping",
    "Stratified": "objectives.stratified",
    "Subsets": "objectives.subsets",
    "SupportScale": "objectives.code_terms.hausdorff_support",
    "SwappedLabels": "objectives.swapped_labels",
    "TMC": "objectives.tmc",
    "TensorBoard": "training.curve_loggers",
    "TotalCorrelation": "objectives.code_terms.total_correlation",
    "Training": "objectives.stage",
    "UnhandledSite": "traces.sites",
    "Verdict": "diagnostics.verdict",
    "WakeSleep": "objectives.wake_sleep",
    "Weighted": "objectives.weighted",
    "Weights": "traces.weights",
    "active_learning": "training.active_learning",
    "active_units": "diagnostics.collapse",
    "against_nuts": "diagnostics.gaps",
    "aggregate_posterior": "diagnostics.collapse",
    "agreement": "diagnostics.restarts",
    "amortisation_gap": "diagnostics.gaps",
    "attribute_coverage": "diagnostics.density_checks",
    "bad_rows": "sampling.refine",
    "bald": "sampling.acquisitions",
    "bound_per_row": "posterior.prediction",
    "calibration_error": "diagnostics.calibration",
    "check_data": "posterior.support",
    "code_features": "posterior.second_classifier",
    "code_spread": "diagnostics.density_checks",
    "composition": "posterior.axioms",
    "counterfactual_bias": "diagnostics.counterfactual_bias",
    "counterfactual_images": "diagnostics.counterfactual_bias",
    "debug": "diagnostics.debug",
    "density_ratio": "objectives.density_ratio",
    "effectiveness": "posterior.axioms",
    "entropy": "sampling.acquisitions",
    "error": "posterior.prediction",
    "errors": "posterior.prediction",
    "exchanged_features": "posterior.second_classifier",
    "fit": "training.fit",
    "gaussian_information": "objectives.code_terms.gaussian_information",
    "gibbs_posterior": "sampling.gibbs",
    "gibbs_predict": "sampling.gibbs",
    "global_posteriors": "traces.global_posteriors",
    "guided_attributes": "objectives.code_terms.guided_attributes",
    "held_out": "diagnostics.gaps",
    "hmc": "sampling.mcmc",
    "importance": "sampling.importance",
    "independent_codes": "objectives.code_terms.independent_codes",
    "kl_parts": "objectives.code_terms.total_correlation",
    "label_calibration": "diagnostics.calibration",
    "label_probabilities": "posterior.prediction",
    "load": "training.run",
    "log_evidence": "sampling.evidence",
    "logit_difference": "diagnostics.counterfactual_bias",
    "loss_per_row": "posterior.prediction",
    "map": "sampling.maximum",
    "mask_calibration": "diagnostics.counterfactual_checks",
    "max_min": "objectives.max_min",
    "methods": "diagnostics.methods",
    "moving_average": "objectives.moving_average",
    "non_descendants": "posterior.axioms",
    "null_intervention": "posterior.axioms",
    "nuts": "sampling.mcmc",
    "permuted_codes": "objectives.code_terms.permuted_codes",
    "predictors_of": "objectives.code_terms.predictors",
    "probe_accuracy": "diagnostics.density_checks",
    "refine": "sampling.refine",
    "relabelled": "posterior.component_order",
    "replaced": "sampling.refine",
    "reversibility": "posterior.axioms",
    "sbc": "diagnostics.calibration",
    "scheduled": "objectives.scheduled",
    "set_likelihood": "sampling.set_likelihood",
    "sir": "sampling.importance",
    "supervision": "objectives.self_normalised",
    "support_distance": "objectives.code_terms.hausdorff_support",
    "swapped_labels": "objectives.swapped_labels",
    "target_of": "objectives.moving_average",
    "verdict": "diagnostics.verdict",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
