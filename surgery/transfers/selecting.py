"""Which steps of a plan a selector means, by the names of their targets."""

from __future__ import annotations

from surgery.errors import SelectorError, did_you_mean
from surgery.patterns import Subject, matches, parse_selector
from surgery.transfers.plan import Step, TransferPlan
from surgery.wrappers import unwrap_name


def selected(plan: TransferPlan, text: str) -> tuple[Step, ...]:
    """The steps in the plan's order. Raises SelectorError where the selector names no target."""
    selector = parse_selector(text)
    steps = tuple(step for step in plan.steps if matches(selector, _subject(step)))
    if not steps:
        near = did_you_mean(text, map(unwrap_name, plan.by_target), 2)
        raise SelectorError(f"no tensor of the target is called {text!r}{near}")
    return steps


def _subject(step: Step) -> Subject:
    names = (unwrap_name(step.target.name), step.target.name)
    return Subject(names, (), frozenset({step.status}), frozenset())
