"""Where hyper-parameters start: the optimizer's defaults, the ``base`` lines, and the call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import OptimizerError, Problem, did_you_mean
from surgery.tuning.actions import KEY_ALIASES, Action, ActionError, Value, key_value
from surgery.tuning.history import Firing, History
from surgery.tuning.optimizer_names import OptimizerChoice
from surgery.tuning.rules import Rules

#: The text of the firing for a value that nobody gave.
_DEFAULTED = "the optimizer's default"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every parameter starts with, before any rule.

    ``keys`` are what the optimizer is made with, ``start`` every key that a rule or a report
    speaks of with its value and who gave it, ``problems`` the keys of the file that fit badly.
    """

    keys: Mapping[str, Any]
    start: tuple[Firing, ...]
    problems: tuple[Problem, ...]


def read_settings(rules: Rules, call: Mapping[str, Any], choice: OptimizerChoice) -> Settings:
    """The call overrules the file, and the file the optimizer's own defaults.

    What the call asks wrongly is an :class:`~surgery.errors.OptimizerError` at once.
    """
    unknown = [setting for setting in rules.base if setting.key not in choice.accepted]
    keys = {setting.key: setting.value for setting in rules.base if setting not in unknown}
    called = dict(_called(call, choice))
    keys.update(called)
    defaults = choice.defaults(keys)
    return Settings(
        keys=keys,
        start=tuple(_start(rules, called, defaults)),
        problems=(
            *(Problem(one.line, _no_key(one.key, choice, choice.accepted)) for one in unknown),
            *_misfits(rules, choice, defaults),
        ),
    )


def taken_for_granted(
    settings: Settings, choice: OptimizerChoice, histories: Iterable[History], *, named: bool
) -> Iterator[str]:
    """One line each for the optimizer and the rate where nobody gave them."""
    if not named:
        yield f"no optimizer is named: {choice.name} is taken (base optimizer=...)"
    for firing in settings.start:
        defaulted = firing.attribute == "lr" and firing.text == _DEFAULTED
        if defaulted and not all(map(_sets_a_rate, histories)):
            yield f"no rate is given: {choice.name}'s own {firing.action} is taken (base lr=...)"


def _sets_a_rate(history: History) -> bool:
    actions = (action for rule in history.rules for action in rule.actions)
    return any(action.attribute == "lr" and action.overwrites for action in actions)


def _called(call: Mapping[str, Any], choice: OptimizerChoice) -> Iterator[tuple[str, Value]]:
    for written, value in call.items():
        key = KEY_ALIASES.get(written, written)
        if key not in choice.accepted:
            raise OptimizerError(_no_key(key, choice, choice.accepted))
        yield key, _call_value(key, value)


def _call_value(key: str, value: Any) -> Value:
    """An argument of the call, held to what a rules file may say."""
    if key in ("lr", "weight_decay"):
        try:
            return key_value(key, str(value))
        except ActionError as error:
            raise OptimizerError(str(error)) from None
    return tuple(value) if isinstance(value, list) else value


def _no_key(key: str, choice: OptimizerChoice, known: Iterable[str]) -> str:
    return f"{choice.name} has no key {key!r}{did_you_mean(key, sorted(known))}"


def _misfits(
    rules: Rules, choice: OptimizerChoice, defaults: Mapping[str, Any]
) -> Iterator[Problem]:
    for rule in rules.rules:
        for action in rule.actions:
            if action.is_hyper and (message := _misfit(action, choice, defaults)):
                yield Problem(rule.line, message)


def _misfit(action: Action, choice: OptimizerChoice, defaults: Mapping[str, Any]) -> str | None:
    if action.attribute not in defaults:
        return _no_key(action.attribute, choice, defaults)
    default = defaults[action.attribute]
    if action.kind != "set" and not _is_number(default):
        return f"{action.text!r} scales {default!r}, and only a number can be scaled"
    if action.is_differential:
        return None
    if _is_number(default) and not _is_number(action.value):
        return f"{action.text!r}: expected a number, found {action.value!r}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _start(
    rules: Rules, called: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Firing]:
    lines = {setting.key: setting.line for setting in rules.base}
    ruled = (action.attribute for rule in rules.rules for action in rule.actions if action.is_hyper)
    for key in dict.fromkeys(("lr", "weight_decay", *lines, *called, *ruled)):
        if key in defaults:
            written = f"{key}={defaults[key]}"
            given = f"base {written}" if key in lines else _DEFAULTED
            text = "given in the call" if key in called else given
            line = 0 if key in called else lines.get(key, 0)
            yield Firing(line, text, written, key, defaults[key])
