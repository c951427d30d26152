"""Terms of the formulas that objectives print: x is the data, y the labels that are summed out."""

from __future__ import annotations


def p(drawn: str = "z", labels: bool = True) -> str:
    """The model's joint density: ``p(x,y,z)``, or ``p(x,z)`` without labels."""
    return f"p(x,y,{drawn})" if labels else f"p(x,{drawn})"


def q(drawn: str = "z", labels: bool = True) -> str:
    """The guide's density of what is drawn: ``q(z|x,y)``, or ``q(z|x)`` without labels."""
    return f"q({drawn}|x,y)" if labels else f"q({drawn}|x)"


def expected(drawn: str = "z", labels: bool = True) -> str:
    """The evidence lower bound given the labels: ``E_q(z|x,y)[log p(x,y,z) - log q(z|x,y)]``."""
    return f"E_{q(drawn, labels)}[log {p(drawn, labels)} - log {q(drawn, labels)}]"


def expected_analytic(labels: bool = True) -> str:
    """The same with its KL term apart: ``E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))``."""
    z = "y,z" if labels else "z"
    return f"E_{q('z', labels)}[log p(x|{z})] - KL({q('z', labels)} || p({z}))"


def over_labels(bound: str) -> str:
    """A bound given the labels, averaged over them: ``sum_y q(y|x) {... - log q(y|x)}``."""
    return f"sum_y q(y|x) {{{bound} - log q(y|x)}}"


def mean_weight(particles: int, drawn: str = "z_k", labels: bool = True) -> str:
    """The average weight of the draws: ``1/8 sum_k p(x,y,z_k) / q(z_k|x,y)``."""
    return f"1/{particles} sum_k {p(drawn, labels)} / {q(drawn, labels)}"
