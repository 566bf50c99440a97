"""Where hyper-parameters start: the optimizer's defaults, the ``base`` lines, and the call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter
from numbers import Real
from typing import TYPE_CHECKING, Any

from surgery.errors import OptimizerError, Problem, RuleError, did_you_mean
from surgery.tuning.actions import KEY_ALIASES, Action, key_value
from surgery.tuning.history import Firing, History
from surgery.tuning.rules import Rules
from surgery.tuning.words import Value, WordError

if TYPE_CHECKING:
    from surgery.tuning.optimizer_choice import OptimizerChoice

#: The text of the firing for a value that nobody gave.
DEFAULTED = "the optimizer's default"


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
    called = dict(_called(call, choice))
    misfits = {key: text for key, v in rules.base.items() if (text := _misfit(choice, key, v))}
    problems = [Problem(rules.lines[key], message) for key, message in misfits.items()]
    based = {key: value for key, value in rules.base.items() if key not in misfits}
    keys = {**based, **called}
    try:
        defaults = choice.defaults(keys)
    except OptimizerError as error:
        own = {key: value for key, value in based.items() if key not in called}
        if called and (choice.takes(own) or not choice.takes(called)):
            raise  # the call is what is refused
        line = refused_line(choice, called, own, rules.lines) or rules.lines.get("optimizer")
        line = line or next((rules.lines[key] for key in based), None)
        if line is None:
            raise
        problem = Problem(line, "; ".join((error.message, *error.details)))
        raise RuleError(rules.path, [*problems, problem]) from error
    for rule in rules.rules:
        messages = (_misfit_of(action, choice, defaults) for action in rule.actions)
        problems += (Problem(rule.line, message) for message in messages if message)
    return Settings(keys, tuple(_start(rules, called, defaults)), tuple(problems))


def _called(call: Mapping[str, Any], choice: OptimizerChoice) -> Iterator[tuple[str, Value]]:
    """The arguments of the call, held to what a rules file may say."""
    for written, value in call.items():
        key = KEY_ALIASES.get(written, written)
        fitted = tuple(value) if isinstance(value, list) else value
        if key in ("lr", "weight_decay"):
            try:
                fitted = key_value(key, str(value))
            except WordError as error:
                raise OptimizerError(str(error)) from None
        if message := _misfit(choice, key, fitted):
            raise OptimizerError(message)
        yield key, fitted


def refused_line(
    choice: OptimizerChoice,
    fixed: Mapping[str, Any],
    keys: Mapping[str, Any],
    lines: Mapping[str, int],
) -> int | None:
    """The line of the first key without which the optimizer can be built, or that it refuses alone.

    ``fixed`` are keys that stand whatever the lines say.
    """
    for key, value in keys.items():
        others = {name: other for name, other in keys.items() if name != key}
        refused_alone = choice.takes(fixed) and not choice.takes({**fixed, key: value})
        if key in lines and (choice.takes({**fixed, **others}) or refused_alone):
            return lines[key]
    return None


def taken_for_granted(
    settings: Settings, choice: OptimizerChoice, histories: Iterable[History], *, named: bool
) -> Iterator[str]:
    """One line each for the optimizer and the learning rate where nobody gave them."""
    if not named:
        yield f"no optimizer is named: {choice.name} is taken (base optimizer=...)"
    for firing in settings.start:
        defaulted = firing.attribute == "lr" and firing.text == DEFAULTED
        if defaulted and not all(map(_sets_a_rate, histories)):
            yield (
                f"no learning rate is given: {choice.name}'s own {firing.action} is taken "
                "(base lr=...)"
            )


def _sets_a_rate(history: History) -> bool:
    actions = (action for rule in history.rules for action in rule.actions)
    return any(action.attribute == "lr" and action.overwrites for action in actions)


def _misfit_of(action: Action, choice: OptimizerChoice, defaults: Mapping[str, Any]) -> str | None:
    """What is wrong with an action on a hyper-parameter, for this optimizer."""
    if not action.is_hyper:
        return None
    key = action.attribute
    if action.kind == "set" or key not in defaults:
        return _misfit(choice, key, action.value, defaults)
    if action.overwrites or _is_number(defaults[key]):
        return None
    return f"{action.text!r} scales {defaults[key]!r}, and only a number can be scaled"


def _misfit(
    choice: OptimizerChoice, key: str, value: object, defaults: Mapping[str, Any] | None = None
) -> str | None:
    """A line where the optimizer has no such key, or the value is of another kind than the key.

    ``defaults`` are those of every key that a group can have; without them it is a key that the
    optimizer can be made with.
    """
    known = choice.signature if defaults is None else defaults
    if key not in known:
        return f"{choice.name} has no key {key!r}{did_you_mean(key, sorted(known))}"
    expected = _expected(choice.signature.get(key), (defaults or {}).get(key), value)
    return f"{key}: expected {expected}, found {value!r}" if expected else None


def _expected(declared: Parameter | None, default: object, value: object) -> str | None:
    """What would have fitted; None where the value does.

    The constructor's default goes before the other one: torch itself takes any text for true. A
    default of None says nothing but where the annotation speaks of a boolean.
    """
    if declared is not None and declared.default is None and "bool" in str(declared.annotation):
        return None if value is None or isinstance(value, bool) else "true, false or none"
    if declared is not None and declared.default not in (Parameter.empty, None):
        default = declared.default
    if _is_alike(default, value):
        return None
    if isinstance(default, tuple):
        return f"{len(default)} numbers"
    return "true or false" if isinstance(default, bool) else "a number"


def _is_alike(default: object, value: object) -> bool:
    """Whether it is of the default's kind; any value is where that is neither number nor flag."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, tuple) and isinstance(value, tuple) and len(value) == len(default):
        return all(map(_is_alike, default, value))
    return not isinstance(default, tuple) and (not _is_number(default) or _is_number(value))


def _is_number(value: object) -> bool:
    """Booleans are numbers to Python, and to nobody else."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _start(
    rules: Rules, called: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Firing]:
    ruled = (action.attribute for rule in rules.rules for action in rule.actions if action.is_hyper)
    for key in dict.fromkeys(("lr", "weight_decay", *rules.base, *called, *ruled)):
        if key in defaults:
            written = f"{key}={defaults[key]}"
            given = f"base {written}" if key in rules.base else DEFAULTED
            text = "given in the call" if key in called else given
            line = 0 if key in called or key not in rules.base else rules.lines[key]
            yield Firing(line, text, written, key, defaults[key])
