"""Last layer first: the recipe of gradual unfreezing, written as rules."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from surgery.errors import RuleError, StageError
from surgery.networks.selection import spec_of
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning import parse_rules
from surgery.tuning.rules import as_selector
from surgery.tuning.stages import layer_depths
from surgery.wrappers import paths_of, unwrap_name


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
    lines = [f"# The head trains from the start, one stage more {plural}."]
    for index, stage in enumerate(stages):
        # The highest path above each parameter that holds nothing of another stage.
        paths = (paths_of(unwrap_name(parameter.name)) for parameter in stage)
        highest = (next(path for path in above if homes[path] == {index}) for above in paths)
        selected = ", ".join(map(as_selector, dict.fromkeys(highest)))
        lines.append(f"{selected} {f'unfreeze@{index * every}' if index else 'train'}")
    text = "\n".join(lines) + "\n"
    try:
        parse_rules(text)
    except RuleError as error:  # a name that cannot be printed is the likeliest reason
        names = [parameter.name for stage in stages for parameter in stage]
        wrong = max(names, key=lambda name: not name.isprintable())
        raise StageError(f"{wrong!r} has a name that rules cannot say") from error
    return text


def _stages(spec: ModelSpec) -> list[list[ParameterSpec]]:
    """The parameters by stage, the one at the output first."""
    depths = layer_depths(spec)
    by_depth: dict[int, list[ParameterSpec]] = {}
    for parameter in spec.parameters:
        if parameter.tensor.is_floating:
            by_depth.setdefault(depths[parameter.name], []).append(parameter)
    return [by_depth[depth] for depth in sorted(by_depth, reverse=True)]
