"""FactorVAE: a variational autoencoder whose code has a small total correlation, by a critic.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x)
Paper   Kim, Mnih. Disentangling by Factorising. ICML 2018, arXiv 1802.05983
Shapes  E enumeration and particle dimensions on the left, B rows, D data, L code
"""

from dataclasses import dataclass

from ppl_models import Card, inference, register, setting
from ppl_models.autoencoders.vae import VAE, VAEConfig
from ppl_models.networks import Net


@dataclass(frozen=True)
class Settings(VAEConfig):
    """Settings."""

    latent: int = setting(3, "L", minimum=2)
    hidden: tuple[int, ...] = setting((16,), "units of each hidden layer", minimum=1)
    gamma: float = setting(10.0, "weight of the total correlation", minimum=0)
    critic: tuple[int, ...] = setting((16, 16), "units of the critic", minimum=1)
    turns: int = setting(1, "steps of the critic per step of the pair", minimum=1)


@register("factor_vae")
class FactorVAE(VAE):
    """The VAE, and a critic that tells its codes from codes with permuted dimensions."""

    Config = Settings
    config: Settings
    card = Card(
        name="factor_vae",
        title="Disentangling by Factorising",
        authors="H. Kim, A. Mnih",
        year=2018,
        arxiv="1802.05983",
        task="disentangled codes",
        data={"x": "data vector (D)"},
        latents={"z": "code (L)"},
    )

    def stages(self) -> tuple[inference.Stage, ...]:
        """The bound and the total correlation, against the critic."""
        config = self.config
        critic = Net({"z": config.latent}, config.critic, 1)
        term, player = inference.permuted_codes(
            critic, "z", config.gamma, steps=config.turns, learning_rate=0.01, betas=(0.5, 0.9)
        )
        return (inference.Stage(self.objective() + term, players=(player,)),)
