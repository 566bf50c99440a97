"""Who learns how fast: rules, parameter groups, and the optimizer that they make.

Read ``rules`` (text to rules), ``resolve`` (rules and a model's spec to groups), ``optimizer``
(groups and a model to an optimizer). That one and ``optimizer_choice`` import torch, the others do
not. What a transfer loaded arrives as data.
"""

from surgery.tuning.groups import Group, ParamGroups, why
from surgery.tuning.history import Firing, HeldNorm
from surgery.tuning.initial import initial_rules
from surgery.tuning.resolve import resolve_groups
from surgery.tuning.rules import Rule, Rules, parse_rules, read_rules
from surgery.tuning.training_state import apply_training_state

__all__ = [
    "Firing",
    "Group",
    "HeldNorm",
    "ParamGroups",
    "Rule",
    "Rules",
    "apply_training_state",
    "initial_rules",
    "parse_rules",
    "read_rules",
    "resolve_groups",
    "why",
]
