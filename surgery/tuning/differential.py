"""Rates that differ from stage to stage: ``lr=A..B``, and the parts of a ``split`` line.

Both are what fast.ai calls discriminative rates (Howard and Ruder, ULMFiT, 2018): low where the
features are general, high where the task is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise

from surgery.errors import did_you_mean
from surgery.specs import ModelSpec
from surgery.tuning.actions import Action, ActionError
from surgery.tuning.rules import Rule
from surgery.tuning.stages import layer_depths
from surgery.wrappers import unwrap_names


def differential_rates(
    rule: Rule, parameters: Sequence[int], spec: ModelSpec
) -> Mapping[int, float]:
    """Index of a parameter that the rule means to its rate; empty where the rule has one for all.

    Raises ActionError for points that the model does not have, or not in that order, and for a
    range over parameters of a single stage.
    """
    for action in rule.actions:
        if action.kind == "spread" and parameters:
            return _over_stages(action, parameters, spec)
        if action.kind == "split":
            return _between_points(action, rule.points, parameters, spec)
    return {}


def _over_stages(action: Action, parameters: Sequence[int], spec: ModelSpec) -> Mapping[int, float]:
    by_name = layer_depths(spec)
    depths = {index: by_name[spec.parameters[index].name] for index in parameters}
    stages = sorted(set(depths.values()))
    lowest, highest = _rates(action)
    if len(stages) == 1:
        raise ActionError(
            f"{action.text!r} spreads over stages and only one is selected: "
            f"lr={lowest:g} or lr={highest:g} says which"
        )
    rates = dict(zip(stages, geometric(lowest, highest, len(stages)), strict=True))
    return {index: rates[depth] for index, depth in depths.items()}


def geometric(first: float, last: float, count: int) -> tuple[float, ...]:
    """``count`` rates from ``first`` to ``last``, both exactly, each the same factor apart.

    Those between are rounded to 15 significant digits, from decimal powers, as powers of floats
    are not good for that many: equal rates that differ by the last bit would be two groups.

    >>> geometric(1e-4, 1e-2, 3)
    (0.0001, 0.001, 0.01)
    """
    if first == last:
        return (first,) * count
    steps = count - 1
    start, end = Decimal(repr(first)), Decimal(repr(last))
    shares = (Decimal(i) / steps for i in range(1, steps))
    between = (start ** (1 - share) * end**share for share in shares)
    return (first, *(float(f"{rate:.15g}") for rate in between), last)


def _between_points(
    action: Action, points: Sequence[str], parameters: Sequence[int], spec: ModelSpec
) -> Mapping[int, float]:
    starts = [_start(point, spec) for point in points]
    if starts[0] == 0:
        raise ActionError(f"nothing lies before {points[0]!r}, where the model starts")
    for (before, after), (one, other) in zip(pairwise(starts), pairwise(points), strict=True):
        if before >= after:
            raise ActionError(
                f"split points go with the model's order, and {other!r} does not come after {one!r}"
            )
    rates = _rates(action)
    return {index: rates[bisect_right(starts, index)] for index in parameters}


def _start(point: str, spec: ModelSpec) -> int:
    """Index of the first parameter at or below a path."""
    names = unwrap_names(parameter.name for parameter in spec.parameters)
    for index, name in enumerate(names.values()):
        if name == point or name.startswith(f"{point}."):
            return index
    paths = dict.fromkeys(path for name in names.values() for path in _paths(name))
    raise ActionError(f"the model has nothing called {point!r}{did_you_mean(point, paths, 2)}")


def _paths(name: str) -> list[str]:
    """The name and every path above it."""
    segments = name.split(".")
    return [".".join(segments[:length]) for length in range(1, len(segments) + 1)]


def _rates(action: Action) -> tuple[float, ...]:
    assert isinstance(action.value, tuple)
    return tuple(rate for rate in action.value if isinstance(rate, float))
