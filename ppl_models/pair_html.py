"""What notebooks show of a pair: its card, its sites, and its settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from ppl_models import html_tables


def of_pair(pair: Any) -> str:
    """Card, sites and settings of a :class:`ppl_models.Pair`."""
    card, config = pair.card, pair.config
    count = sum(parameter.numel() for parameter in pair.parameters())
    sites = [
        *((site, "data", what) for site, what in card.data.items()),
        *((site, "covariate", what) for site, what in card.covariates.items()),
        *(
            (site, "observed or latent" if site in card.labels else "latent", what)
            for site, what in card.latents.items()
        ),
    ]
    settings = [
        (field.name, _value(getattr(config, field.name)), field.metadata.get("doc", ""))
        for field in dataclasses.fields(config)
    ]
    return html_tables.notebook(
        f"{card.name}: {card.title}",
        html_tables.facts({"authors": f"{card.authors}, {card.year}", "parameters": f"{count:,}"}),
        html_tables.table(("site", "kind", "meaning"), sites),
        html_tables.table(("setting", "value", "meaning"), settings),
    )


def _value(value: Any) -> str:
    return html_tables.some(value) if isinstance(value, tuple) else str(value)
