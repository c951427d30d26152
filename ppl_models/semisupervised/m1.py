"""M1: a code explains a row, and a classifier reads the code; trained one after the other.

Story   z ~ N(0, I)   x | z ~ p(dec(z))   y | z ~ Cat(classifier(z))
Guide   q(z | x) reparameterised; q(y | z) is the story's own classifier
Paper   Kingma, Rezende, Mohamed, Welling. NIPS 2014, arXiv 1406.5298, Section 2.1
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class M1Config(Config):
    """Settings of the paper's MNIST experiment."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    latent: int = setting(50, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500, 500), "units of each hidden layer", minimum=1)
    classifier: tuple[int, ...] = setting((300,), "units of the classifier on z", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)


class M1(Pair):
    """The latent-feature discriminative model."""

    Config = M1Config
    config: M1Config
    card = Card(
        name="m1",
        title="Semi-supervised Learning with Deep Generative Models",
        authors="Diederik P. Kingma, Danilo J. Rezende, Shakir Mohamed, Max Welling",
        year=2014,
        arxiv="1406.5298",
        task="semi-supervised classification on learned features",
        data={"x": "data vector (D)"},
        latents={"z": "code (L)", "y": "class (C)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "a perceptron on the code in place of the transductive SVM",
            "no prior on the weights; the paper's is `weight_prior=1` in training",
        ),
    )

    def __init__(self, config: M1Config) -> None:
        super().__init__(config)
        D, C, L, H = config.data_dim, config.classes, config.latent, config.hidden
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"z": L}, H, D * self.likelihood.outputs)
        self.guide = guides.Factored(
            z=guides.Normal(L, {"x": D}, H),
            y=guides.Categorical(C, {"z": L}, config.classifier),
        )

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z) p(y | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = dist.Normal(zero, zero + 1).to_event(1)
            z = pyro.sample("z", z, obs=batch.get("z"))  # E x B x L
            if "x" in batch or "z" not in batch:  # where the code is the data, x is a leaf
                x = self.likelihood(self.decoder(z=z))  # E x B x D
                pyro.sample("x", x, obs=batch.get("x"))
            pyro.sample("y", self.guide.factor("y", {"z": z}), obs=batch.get("y"))  # E x B

    def encode(self, batch: Batch) -> Batch:
        """Labelled rows with a fresh draw of the code as their data."""
        return batch.replace({"z": self.guide.factor("z", batch).sample(), "y": batch["y"]})

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Of the autoencoder; the label is summed out and cancels."""
        return bound or inference.EnumeratedELBO(kl="analytic")

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The autoencoder on every row, then the classifier on codes of the labelled ones."""
        vae = inference.Stage(
            self.objective(bound), name="vae", sites=("x",), freeze=("guide.factors.y",)
        )
        classifier = inference.Stage(
            inference.Classification("y"),
            name="classifier",
            observed="y",
            prepare=self.encode,
            freeze=("decoder", "guide.factors.z"),
        )
        return vae, classifier
