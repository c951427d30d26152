"""Parameters by the prefixes of their names, and the learning rate that each prefix gives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn


def under(name: str, prefix: str) -> bool:
    """Whether a parameter's name lies under a prefix, at a dot."""
    return name == prefix or name.startswith(prefix + ".")


def below(
    module: nn.Module, prefix: str, what: str, of: str = "the pair"
) -> list[tuple[str, nn.Parameter]]:
    """The parameters under a prefix, by every name that ``state_dict`` prints.

    Args:
        module: The pair, or a player's module.
        prefix: The prefix, up to a dot.
        what: Who names it, and for what, for the message.
        of: What the module is, likewise.

    Raises:
        ValueError: If there are none, naming the name that is nearest.
    """
    every = list(module.named_parameters(remove_duplicate=False))
    found = [(name, p) for name, p in every if under(name, prefix)]
    if found:
        return found
    if any(under(name, prefix) for name, _ in module.named_buffers(remove_duplicate=False)):
        raise ValueError(
            f"{what} {prefix!r}, which holds buffers alone, and no gradient moves them; expected "
            "a name of parameters"
        )
    parts = [name.split(".") for name, _ in every]
    known = {".".join(path[:n]) for path in parts for n in range(1, len(path) + 1)}
    near = nearest(prefix, known)
    hint = f"did you mean {near!r}? " if near else ""
    first = ", ".join(sorted({path[0] for path in parts}))
    raise ValueError(
        f"{what} {prefix!r}, which is no parameter of {of}: {hint}expected one of {first}, "
        f"or a name below it, as {of.split()[-1]}.state_dict() prints them"
    )


def nearest(prefix: str, known: Iterable[str]) -> str:
    """The name that is most like a prefix; one that ends alike goes first."""
    alike = [name for name in known if name.split(".")[-1] == prefix.split(".")[-1]]
    near = difflib.get_close_matches(prefix, sorted(alike), n=1, cutoff=0.0)
    return (near or difflib.get_close_matches(prefix, sorted(known), n=1) or [""])[0]


def by_rate(
    parameters: Sequence[nn.Parameter],
    rates: Mapping[str, float],
    within: nn.Module,
    who: str,
    of: str = "the pair",
) -> list[dict[str, Any]]:
    """Parameters as an optimiser takes them: in groups, of which some have their own rate.

    Args:
        parameters: All that are trained.
        rates: Learning rates by prefix of the names of parameters; the longest prefix counts.
        within: What the names are those of.
        who: Who trains them, for the message.
        of: What ``within`` is, likewise.

    Returns:
        One group without a rate, where any parameter has none, and one for each prefix.

    Raises:
        ValueError: If a prefix fits no name or nothing that is trained, or a parameter with two
            names gets two rates.
    """
    held = {id(p) for p in parameters}
    chosen: dict[int, str] = {}
    for prefix in sorted(rates, key=lambda p: p.count(".")):
        named = [(n, p) for n, p in below(within, prefix, f"{who} has a rate for", of)]
        mine = [(n, p) for n, p in named if id(p) in held]
        if not mine:
            raise ValueError(f"{who} has a rate for {prefix!r}, of which it trains nothing")
        for name, parameter in mine:
            before = chosen.get(id(parameter), prefix)
            if not under(prefix, before) and rates[before] != rates[prefix]:
                raise ValueError(
                    f"{who} has two rates for {name!r}: {rates[before]} by {before!r} and "
                    f"{rates[prefix]} by {prefix!r}"
                )
            chosen[id(parameter)] = prefix
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in chosen]}]
    for prefix, rate in rates.items():
        own = [p for p in parameters if chosen.get(id(p)) == prefix]
        groups.append({"params": own, "lr": rate})
    return [group for group in groups if group["params"]]
