"""Last layer first: the recipe of gradual unfreezing, written as rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from surgery.errors import RuleError, StageError
from surgery.patterns import spec_of
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning import resolve_groups
from surgery.tuning.actions import is_action
from surgery.tuning.stages import layer_depths
from surgery.wrappers import unwrap_name

if TYPE_CHECKING:
    from torch import nn

#: Words that start lines of their own.
_LINE_WORDS = frozenset({"model", "base", "default", "split", "schedule"})


def gradual_unfreeze(model: nn.Module | ModelSpec, every: int = 2) -> str:
    """Rules text: the head trains from epoch 0, then one stage more every ``every`` epochs.

    From the output to the input, as ULMFiT does (Howard and Ruder 2018, section 3.3). Stages
    are the model's own depths where it knows them, see
    :func:`surgery.tuning.stages.layer_depths`. Put ``base`` and rate lines in front. A path
    that rules would read as something else is written as a regular expression.

    Raises :class:`~surgery.errors.StageError`, for names that no rule can say too.

    >>> print(surgery.gradual_unfreeze(TinyNet()))
    # The head trains from the start, one stage more every 2 epochs.
    fc train
    blocks.2 unfreeze@2
    blocks.1 unfreeze@4
    blocks.0 unfreeze@6
    stem, bn unfreeze@8
    """
    if type(every) is not int or every < 1:
        raise StageError(f"expected every= a whole number of epochs from 1, found {every!r}")
    plural = "every epoch" if every == 1 else f"every {every} epochs"
    lines = [f"# The head trains from the start, one stage more {plural}."]
    spec = spec_of(model)
    stages = _stages(spec)
    if not stages:
        raise StageError("the model has no parameters that could train")
    below = _stages_below(stages)
    for index, stage in enumerate(stages):
        paths = dict.fromkeys(_shortest_path(p, index, below) for p in stage)
        selector = ", ".join(map(_as_selector, paths))
        lines.append(f"{selector} {f'unfreeze@{index * every}' if index else 'train'}")
    text = "\n".join(lines) + "\n"
    _check_read_back(text, spec, stages, every)
    return text


def _as_selector(path: str) -> str:
    """The path itself where rules read it as a path, else a regular expression for it."""
    if re.fullmatch(r"[\w.]+", path) and path not in _LINE_WORDS and not is_action(path):
        return path
    return f"/^{re.escape(path).replace('/', chr(92) + '/')}(\\.|$)/"


def _check_read_back(
    text: str, spec: ModelSpec, stages: Sequence[Sequence[ParameterSpec]], every: int
) -> None:
    """Raise StageError unless the rules say of every parameter what its stage does."""
    wanted = {p.name: index * every or "train" for index, stage in enumerate(stages) for p in stage}
    try:
        groups = resolve_groups(spec, text).groups
    except RuleError as error:
        odd = next((name for name in wanted if _as_selector(name) != name), next(iter(wanted)))
        raise StageError(f"{odd!r} has a name that rules cannot say: {error.message}") from error
    found = {name: group.when for group in groups for name in group.param_names}
    for name, when in wanted.items():
        if found.get(name) != when:
            raise StageError(f"{name!r} has a name that rules would read as something else")


def _stages(spec: ModelSpec) -> list[list[ParameterSpec]]:
    """The parameters by stage, the one at the output first."""
    depths = layer_depths(spec)
    by_depth: dict[int, list[ParameterSpec]] = {}
    for parameter in spec.parameters:
        if parameter.tensor.is_floating:
            by_depth.setdefault(depths[parameter.name], []).append(parameter)
    return [by_depth[depth] for depth in sorted(by_depth, reverse=True)]


def _stages_below(stages: Sequence[Sequence[ParameterSpec]]) -> dict[str, set[int]]:
    """Every path to the stages that have a parameter there; a tied one is at all its names."""
    below: dict[str, set[int]] = {}
    for index, stage in enumerate(stages):
        for alias in (alias for parameter in stage for alias in parameter.aliases):
            for path in _paths_to(alias):
                below.setdefault(path, set()).add(index)
    return below


def _shortest_path(parameter: ParameterSpec, stage: int, below: Mapping[str, set[int]]) -> str:
    """The highest path above the parameter that holds nothing of another stage."""
    return next(path for path in _paths_to(parameter.name) if below[path] == {stage})


def _paths_to(name: str) -> Iterator[str]:
    """``a``, ``a.b``, ``a.b.weight``, as if nothing were wrapped."""
    return accumulate(unwrap_name(name).split("."), lambda path, segment: f"{path}.{segment}")
