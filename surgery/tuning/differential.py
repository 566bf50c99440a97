"""Values that differ over the model: ``decay=F``, ``lr=A..B``, and the parts of a ``split`` line.

The last two are what fast.ai calls discriminative learning rates (Howard and Ruder, ULMFiT, 2018):
low where the features are general, high where the task is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

from surgery.errors import did_you_mean
from surgery.specs import ModelSpec
from surgery.tuning.actions import Action
from surgery.tuning.rules import Rule
from surgery.tuning.stages import layer_depths
from surgery.tuning.words import WordError
from surgery.wrappers import paths_of, unwrap_names


def differential_values(
    rule: Rule, parameters: Sequence[int], spec: ModelSpec
) -> Mapping[Action, Mapping[int, float]]:
    """The rule's actions that depend on the place, each with its value by index of a parameter.

    Those of ``decay`` are factors, those of the others learning rates. Raises WordError for points
    that the model does not have, not in that order, or for which there are not as many rates,
    and for a range over parameters of a single stage.
    """
    found: dict[Action, Mapping[int, float]] = {}
    for action in rule.actions:
        if action.kind == "split":
            found[action] = _between_points(action, rule.points, parameters, spec)
        elif action.kind in ("decay", "spread") and parameters:
            depths = layer_depths(spec)
            own = {index: depths[spec.parameters[index].name] for index in parameters}
            by_depth = _by_depth(action, sorted(set(own.values())), max(depths.values()))
            found[action] = {index: by_depth[depth] for index, depth in own.items()}
    return found


def _by_depth(action: Action, stages: Sequence[int], deepest: int) -> Mapping[int, float]:
    value: Any = action.value
    if action.kind == "decay":
        return {depth: value ** (deepest - depth) for depth in stages}
    lowest, highest = value
    if len(stages) == 1:
        raise WordError(
            f"{action.text!r} spreads over stages and only one is selected: "
            f"lr={lowest:g} or lr={highest:g} says which"
        )
    return dict(zip(stages, geometric(lowest, highest, len(stages)), strict=True))


def geometric(first: float, last: float, count: int) -> tuple[float, ...]:
    """``count`` values from ``first`` to ``last``, both exactly, each the same factor apart.

    Those between are rounded to 15 significant digits, from decimal powers, as powers of floats
    are not good for that many: equal values that differ by the last bit would be two groups.

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
    first: dict[str, int] = {}
    for index, name in enumerate(unwrap_names(p.name for p in spec.parameters).values()):
        for path in paths_of(name):
            first.setdefault(path, index)
    for point in points:
        if point not in first:
            hint = did_you_mean(point, first, 2)
            raise WordError(f"the model has nothing called {point!r}{hint}")
    starts = [first[point] for point in points]
    if starts[0] == 0:
        raise WordError(f"nothing lies before {points[0]!r}, where the model starts")
    rates: Any = action.value
    if len(rates) != len(points) + 1:  # after the names: one that is none is the likelier cause
        raise WordError(
            f"{action.text!r}: expected {len(points) + 1} learning rates, one more than split "
            f"points, found {len(rates)}"
        )
    for (before, after), (one, other) in zip(pairwise(starts), pairwise(points), strict=True):
        if before >= after:
            raise WordError(
                f"split points go with the model's order, and {other!r} does not come after {one!r}"
            )
    return {index: rates[bisect_right(starts, index)] for index in parameters}
