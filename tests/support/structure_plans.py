"""Plans made of what structure decides, and plans that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.matching.recipes.recipe import Recipe, join_rows
from surgery.transfers import plan_transfer
from surgery.transfers.plan import TransferPlan
from surgery.transfers.step import Step

if TYPE_CHECKING:
    from torch import nn

#: Parts of a target from top to bottom -> its recipe, once its shape is known.
Made = Callable[[Step], Recipe]


def structure_plan(source: nn.Module, target: nn.Module) -> TransferPlan:
    """The plan that names and shapes alone decide, without the code of either."""
    plan = plan_transfer(source.state_dict(), target, match="structure")
    return replace(plan, request=None)


def rows_of(parts: Sequence[Recipe], *, transposed: bool = False) -> Made:
    """The parts one below the other; ``transposed`` for a target that is stored (in, out)."""

    def made(step: Step) -> Recipe:
        shape = step.target.shape
        joined = join_rows(parts, shape[::-1] if transposed else shape)
        return joined.permute((1, 0)) if transposed else joined

    return made


def with_recipes(plan: TransferPlan, made: Callable[[Step], Recipe | None]) -> TransferPlan:
    """The plan with other recipes, where ``made`` gives one."""

    def changed(step: Step) -> Step:
        recipe = made(step)
        return Step(step.target, recipe, "loaded") if recipe else step

    steps = tuple(map(changed, plan.steps))
    used = {spec.name for step in steps for spec in step.sources}
    unused = tuple(each for each in plan.unused if each.source.name not in used)
    return replace(plan, steps=steps, unused=unused)
