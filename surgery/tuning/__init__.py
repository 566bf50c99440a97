"""Who learns how fast: rules, parameter groups, and the optimizer that they make.

Read ``rules`` (text to rules), ``groups`` (rules and a model's spec to groups), ``optimizer``
(groups and a model to an optimizer). What a transfer loaded arrives as data.
"""

from surgery.tuning.groups import (
    Group,
    ParamGroups,
    RuleLine,
    resolve_groups,
    why,
)
from surgery.tuning.history import Firing
from surgery.tuning.initial import initial_rules
from surgery.tuning.norms import HeldNorm
from surgery.tuning.optimizer import build_optimizer
from surgery.tuning.rules import Rule, Rules, parse_rules, read_rules
from surgery.tuning.training_state import apply_training_state

__all__ = [
    "Firing",
    "Group",
    "HeldNorm",
    "ParamGroups",
    "Rule",
    "RuleLine",
    "Rules",
    "apply_training_state",
    "build_optimizer",
    "initial_rules",
    "parse_rules",
    "read_rules",
    "resolve_groups",
    "why",
]
