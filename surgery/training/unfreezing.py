"""Last layer first: the recipe of gradual unfreezing, written as rules."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from surgery.errors import RuleError, StageError
from surgery.networks.selection import spec_of
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning import resolve_groups
from surgery.tuning.actions import is_action
from surgery.tuning.stages import layer_depths
from surgery.wrappers import paths_of, unwrap_name

#: Words that start lines of their own.
_LINE_WORDS = frozenset({"model", "base", "default", "split", "schedule"})


def gradual_unfreeze(model: nn.Module | ModelSpec, every: int = 2) -> str:
    """Rules text: the head trains from epoch 0, then one stage more every ``every`` epochs.

    From the output to the input, as ULMFiT does (Howard and Ruder 2018, section 3.3). Stages
    are the model's own depths where it knows them, see
    :func:`surgery.tuning.stages.layer_depths`. Put ``base`` and learning rate lines in front. A
    path that rules would read as something else is written as a regular expression.

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
    # Every path to the stages that have a parameter there; a tied one is at all its names.
    homes: dict[str, set[int]] = defaultdict(set)
    for index, stage in enumerate(stages):
        for alias in (alias for parameter in stage for alias in parameter.aliases):
            for path in paths_of(unwrap_name(alias)):
                homes[path].add(index)
    for index, stage in enumerate(stages):
        # The highest path above each parameter that holds nothing of another stage.
        paths = (paths_of(unwrap_name(parameter.name)) for parameter in stage)
        highest = (next(o for o in above if homes[o] == {index}) for above in paths)
        selector = ", ".join(map(_as_selector, dict.fromkeys(highest)))
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
