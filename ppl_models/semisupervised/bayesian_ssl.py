"""Bayesian SSL: a label of row and code through a network whose weights have a posterior.

Story   w ~ N(0, I)   z ~ N(0, I)   x | z ~ p(dec(z))   y | x, z, w ~ Cat(net(x, z; w))
Guide   q(w) q(y | x) q(z | x, y): y enumerated where it is missing, w one draw for all rows
Paper   Gordon and Hernandez-Lobato, arXiv 1706.09751; Gordon, MPhil dissertation, Cambridge 2017
Shapes  E enumeration and particles on the left, B rows, C classes, D data, L code, W weights
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch.nn.utils import parameters_to_vector

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Label, Net, Weightless
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class BayesianSSLConfig(Config):
    """Settings of the authors' MNIST experiment."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    latent: int = setting(50, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500, 500), "units of each hidden layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)
    bayesian: bool = setting(True, "q(w) is a Normal; False: a point (their SSLPE)")
    log_variance: float = setting(-12.0, "log-variance that q(w) starts with")
    kl_weights: float = setting(1.0, "weight of KL(q(w) || p(w)), once per data set", minimum=0)
    balanced: bool = setting(True, "labelled rows together count as much as unlabelled ones")
    warm_up: float = setting(0.0, "share of training over which KL(z) grows to 1", minimum=0)
    alpha: float = setting(0.1, "alpha, weight of log q(y | x); N / N_lab inside", minimum=0)


class BayesianSSL(Pair):
    """The semi-supervised model with a Bayesian label network."""

    Config = BayesianSSLConfig
    config: BayesianSSLConfig
    card = Card(
        name="bayesian_ssl",
        title="Bayesian Semisupervised Learning with Deep Generative Models",
        authors="Jonathan Gordon, Jose Miguel Hernandez-Lobato",
        year=2017,
        arxiv="1706.09751",
        task="semi-supervised classification and active learning",
        data={"x": "data vector (D)"},
        latents={"w": "weights of the label network (W)", "z": "code (L)", "y": "class (C)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "no batch normalisation: its scale and shift would have no posterior",
            "KL(q(w) || p(w)) counts once; the authors' code adds 1 / N of it to each row of a "
            "labelled and an unlabelled mean, which makes two",
            "labelled and unlabelled rows of a step each see a draw of w of their own",
            "weights start at PyTorch's default scale; the point is the one of highest "
            "posterior density",
        ),
        limits=(
            "unlabelled rows narrow q(w), though the leaf y tells nothing of w: q(y | x) does "
            "not depend on w, and the bound is tight only where all w agree",
            "Pyro's own TraceEnum_ELBO takes it only with Pyro's checks switched off",
        ),
        picture="Half moons after 4 labels and 12 queries (above), and with 200 labels, wrong in "
        "40 % right of the line (below): entropy is high where labels are noisy, BALD is not",
    )

    def __init__(self, config: BayesianSSLConfig) -> None:
        super().__init__(config)
        D, C, L, H = config.data_dim, config.classes, config.latent, config.hidden
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"z": L}, H, D * self.likelihood.outputs, "relu")
        network = Net({"x": D, "z": L}, H, C, "relu")
        self.network = Weightless(network)
        start = init_to_value(values={"w": parameters_to_vector(network.parameters()).detach()})
        scale = math.exp(0.5 * config.log_variance)
        auto = (
            partial(AutoNormal, init_loc_fn=start, init_scale=scale)
            if config.bayesian
            else partial(AutoDelta, init_loc_fn=start)
        )
        rows = Batch({"x": self.like().new_full((1, D), 0.5)})
        self.guide = guides.Mixed(
            guides.Globals(self.model, rows, auto),
            guides.Factored(
                y=guides.Categorical(C, {"x": D}, H, "relu"),
                z=guides.Normal(L, {"x": D, "y": Label(C)}, H, "relu"),
            ),
        )

    def model(self, batch: Batch) -> None:
        """p(w) p(z) p(x | z) p(y | x, z, w)."""
        zero = self.like().new_zeros(1)
        w = pyro.sample("w", dist.Normal(zero.expand(self.network.size), 1.0).to_event(1))  # W
        with self.plate(batch):
            L = self.config.latent
            z = pyro.sample("z", dist.Normal(zero.expand(L), 1.0).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(z=z))  # E x B x D
            x = pyro.sample("x", x, obs=batch.get("x"))
            logits = self.network(w, x=x, z=z)  # E x B x C
            pyro.sample("y", dist.Categorical(logits=logits), obs=batch.get("y"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Both bounds, KL(q(w) || p(w)), and the guide's label network as a classifier."""
        c = self.config
        warm_up = inference.Anneal(0.0, 1.0, 0.0, c.warm_up) if c.warm_up else 1.0
        bound = bound or inference.EnumeratedELBO(kl="analytic", beta={"z": warm_up})
        weighted = inference.Weighted(bound, "y" if c.balanced else "", c.kl_weights)
        return weighted + inference.Classification("y", c.alpha)
