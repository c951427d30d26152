"""The formulas that objectives print, word by word."""

from __future__ import annotations

import pytest

from ppl_models.inference import (
    ELBO,
    IWELBO,
    TMC,
    Anneal,
    EnumeratedELBO,
    FreeBits,
    RelaxedELBO,
    Renyi,
    ScoreELBO,
    WakeSleep,
)

ENUMERATED = "sum_y q(y|x) {E_q(z|x,y)[log p(x,y,z) - log q(z|x,y)] - log q(y|x)}"


@pytest.mark.parametrize(
    ("objective", "formula"),
    [
        (ELBO(), "E_q(z|x)[log p(x,z) - log q(z|x)]"),
        (ELBO(kl="analytic"), "E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))"),
        (ELBO(beta=Anneal(0, 4), free_bits=0.5), "E_q(z|x)[log p(x,z) - log q(z|x)] with "
         "(0 -> 4) KL, KL at least 0.5 nats per dimension"),
        (EnumeratedELBO(), ENUMERATED),
        (Renyi(alpha=1), ENUMERATED),
        (EnumeratedELBO(kl="analytic", beta={"z": 4, "p(z)": 2}), "sum_y q(y|x) "
         "{E_q(z|x,y)[log p(x|y,z)] - KL(q(z|x,y) || p(y,z)) with 4 KL(z), 2 KL(p(z)) "
         "- log q(y|x)}"),
        (EnumeratedELBO(free_bits=FreeBits(1, per="site")), "sum_y q(y|x) {E_q(z|x,y)"
         "[log p(x,y,z) - log q(z|x,y)] with KL at least 1 nats per site - log q(y|x)}"),
        (IWELBO(3, lam=0), "log sum_y 1/3 sum_k p(x,y,z_k) / q(z_k|x,y)"
         " - 1 (1 - lambda) CE(sg(pi), q(y|x))"),
        (TMC(3), "log sum_y mean over 3^n (k1..kn) of p(x,y,z_k1..z_kn) / prod q_i"
         " - (1) KL(q(y|x) || pi)"),
        (WakeSleep(3), "model: log sum_y 1/3 sum_k p(x,y,z_k) / q(z_k|x,y); "
         "guide: 1 sum_yk W_yk log q(y,z_k|x)"),
        (ScoreELBO(), "sum_y q(y|x) {E_q(h,z|x,y)[log p(x,y,h,z) - log q(h,z|x,y)] - log q(y|x)}"),
        (ScoreELBO(enumerate_labels=False), "E_q(h,z|x)[log p(x,h,z) - log q(h,z|x)]"),
        (ScoreELBO(3, inside=True), "sum_y q(y|x) "
         "{log 1/3 sum_k p(x,y,h_k,z_k) / q(h_k,z_k|x,y) - log q(y|x)}"),
        (ScoreELBO(3, inside=True, enumerate_labels=False),
         "log 1/3 sum_k p(x,h_k,z_k) / q(h_k,z_k|x)"),
        (RelaxedELBO(prior="relaxed"),
         "E_q(y,z|x)[log p(x,y,z) - log q(y,z|x)], y relaxed at 0.66"),
    ],
)  # fmt: skip
def test_formulas(objective, formula):
    assert str(objective) == formula
