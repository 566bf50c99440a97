"""Readable names for groups, each used once, the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count, takewhile

from surgery.tuning.history import History
from surgery.tuning.rules import Rule
from surgery.wrappers import unwrap_name


def group_names(groups: Sequence[Sequence[History]]) -> tuple[str, ...]:
    """One name for each group of parameters, in order.

    ``name=ID`` where a rule gave one, else where the parameters are: their common path, or the
    first and the last of the model's children that have some (``conv1..layer4``). Groups that
    would be called the same also carry the selector that distinguishes them
    (``blocks.0 & :1d``), and a number where that is not enough.
    """
    places = [members[0].name or _place(members) for members in groups]
    names: dict[str, None] = {}
    for index, place in enumerate(places):
        selector = _distinction(index, places, groups)
        name = f"{place} & {selector}" if selector else place
        numbers = chain([name], (f"{name} #{number}" for number in count(2)))
        names[next(free for free in numbers if free not in names)] = None
    return tuple(names)


def _place(members: Sequence[History]) -> str:
    paths = [unwrap_name(member.parameter.name).split(".") for member in members]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ".".join(level[0] for level in levels) or f"{paths[0][0]}..{paths[-1][0]}"


def _distinction(
    index: int, places: Sequence[str], groups: Sequence[Sequence[History]]
) -> str | None:
    """The last selector that fired here and not in every group of the same place."""
    rivals = [group for place, group in zip(places, groups, strict=True) if place == places[index]]
    if len(rivals) == 1:
        return None
    shared = set.intersection(*(set(rules_behind(rival)) for rival in rivals))
    own = [
        rule
        for line, rule in rules_behind(groups[index]).items()
        if line not in shared and any(action.kind != "bn" for action in rule.actions)
    ]
    return own[-1].selector.text if own else None


def rules_behind(members: Sequence[History]) -> dict[int, Rule]:
    """The rules that fired for any of the members, by line, in line order."""
    found = {rule.line: rule for member in members for rule in member.rules}
    return dict(sorted(found.items()))
