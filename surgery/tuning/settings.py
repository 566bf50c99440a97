"""Where hyper-parameters start: the optimizer's defaults, the ``base`` lines, and the call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.errors import OptimizerError, Problem, RuleError, did_you_mean
from surgery.tuning.actions import KEY_ALIASES, Action, ActionError, Value, key_value
from surgery.tuning.history import Firing, History
from surgery.tuning.optimizer_names import OptimizerChoice
from surgery.tuning.rules import Rules, Setting
from surgery.tuning.values import is_number, misfit

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

    What the call asks wrongly is an :class:`~surgery.errors.OptimizerError` at once; base lines
    that the optimizer refuses are a :class:`~surgery.errors.RuleError`, since nothing can be
    said of the rules then.
    """
    unknown = [setting for setting in rules.base if setting.key not in choice.accepted]
    known = [setting for setting in rules.base if setting not in unknown]
    called = dict(_called(call, choice))
    problems = [Problem(one.line, _no_key(one.key, choice, choice.accepted)) for one in unknown]
    problems += _wrong_kinds(known, choice)
    wrong = {problem.line for problem in problems}
    fitting = [setting for setting in known if setting.line not in wrong or _fits(setting, choice)]
    keys = {**{setting.key: setting.value for setting in fitting}, **called}
    try:
        defaults = choice.defaults(keys)
    except OptimizerError as error:
        problem = _blamed(error, fitting, called, choice, rules)
        raise RuleError(rules.path, [*problems, problem]) from error
    return Settings(
        keys=keys,
        start=tuple(_start(rules, called, defaults)),
        problems=(*problems, *_misfits(rules, choice, defaults)),
    )


def _fits(setting: Setting, choice: OptimizerChoice) -> bool:
    return misfit(choice, setting.key, setting.value, {}) is None


def _wrong_kinds(settings: Iterable[Setting], choice: OptimizerChoice) -> Iterator[Problem]:
    for setting in settings:
        if message := misfit(choice, setting.key, setting.value, {}):
            yield Problem(setting.line, f"{setting.key}: {message}")


def _blamed(
    error: OptimizerError,
    settings: Sequence[Setting],
    called: Mapping[str, Value],
    choice: OptimizerChoice,
    rules: Rules,
) -> Problem:
    """The line of the file that keeps the optimizer from being built; the error where none does.

    The setting without which it can be built, else the one that alone is refused, else where
    the optimizer is named.
    """
    given = {setting.key: setting.value for setting in settings}
    if called and can_be_built(choice, given):
        raise error
    for setting in settings:
        rest = {key: value for key, value in given.items() if key != setting.key}
        alone = {setting.key: setting.value}
        if can_be_built(choice, {**rest, **called}) or _refused_alone(choice, alone, called):
            return Problem(setting.line, _in_one_line(error))
    line = rules.optimizer_line or next((setting.line for setting in settings), 0)
    if not line or (called and not can_be_built(choice, called)):
        raise error
    return Problem(line, _in_one_line(error))


def can_be_built(choice: OptimizerChoice, keys: Mapping[str, Any]) -> bool:
    """Whether the optimizer takes these keys."""
    try:
        choice.defaults(keys)
    except OptimizerError:
        return False
    return True


def _refused_alone(
    choice: OptimizerChoice, alone: Mapping[str, Any], called: Mapping[str, Any]
) -> bool:
    return can_be_built(choice, called) and not can_be_built(choice, {**alone, **called})


def _in_one_line(error: OptimizerError) -> str:
    return "; ".join((error.message, *error.details))


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
        fitted = _call_value(key, value)
        if message := misfit(choice, key, fitted, {}):
            raise OptimizerError(f"{key}: {message}")
        yield key, fitted


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
    if action.kind != "set":
        if is_number(default):
            return None
        return f"{action.text!r} scales {default!r}, and only a number can be scaled"
    if action.is_differential:
        return None
    message = misfit(choice, action.attribute, action.value, defaults)
    return f"{action.text!r}: {message}" if message else None


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
