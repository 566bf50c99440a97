"""Text to rules: who trains, how fast, and what is regularised.

::

    model timm:resnet50                     # optional: the architecture that the names are of
    base optimizer=adamw lr=1e-3 wd=0.05 betas=0.9,0.999
    default error                           # or base: whether a rule must name every parameter
    :all            decay=0.75
    :1d             wd=0
    layer[12], stem freeze                  # as a selector, see surgery.patterns
    ? layer5        unfreeze@3              # ? lets a rule match nothing
    split layer2 fc lr=1e-7,1e-4,1e-2       # before layer2, from layer2, from fc on
    layer[34]       lr=1e-5..1e-2           # one rate for each stage of what is selected
    schedule cosine floor=0.01 warmup=2     # see surgery.tuning.schedule_line

Lines run top to bottom, each attribute for itself: ``=`` sets, ``*=`` scales, the last ``=``
wins. A comment starts with ``#`` at the start of a word. The words ``model``, ``base``,
``default``, ``split`` and ``schedule`` start their lines; a module of that name is written
``base.**``.

``split`` takes points in the model's own order and one rate more than points: the first for
everything before the first point, the last from the last point on. ``lr=A..B`` gives A to the
lowest stage of what is selected and B to the highest, and those between them rates that grow by
one factor from stage to stage; stages are the depths of ``decay``. Both set ``lr``, as
``lr=F`` does, so an exception goes below them.

Everything wrong in a text is raised at once, as one :class:`~surgery.errors.RuleError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from surgery.errors import Problem, RuleError, SelectorError, did_you_mean
from surgery.patterns import Selector, end_of_regex, parse_selector
from surgery.tuning.actions import (
    KEY_ALIASES,
    Action,
    ActionError,
    Value,
    is_action,
    key_value,
    parse_action,
    parse_split,
    resembles_an_action,
)
from surgery.tuning.schedule_line import ScheduleLine, ScheduleLineError, parse_schedule

Default = Literal["base", "error"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One ``key=value`` of a ``base`` line."""

    key: str
    value: Value
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: what it means, what it does there, and whether it may mean nothing.

    ``line`` counts from 1, ``text`` is the line without its comment. ``points`` are those of a
    ``split`` line, whose selector is everything; empty elsewhere.
    """

    line: int
    text: str
    selector: Selector
    actions: tuple[Action, ...]
    optional: bool = False
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """A rules file, read. ``path`` is as the user named it, ``<rules>`` for text.

    ``base`` are the settings of all ``base`` lines but ``optimizer=``, which is ``optimizer``.
    ``default_line`` is where ``default`` was said and ``model_line`` where ``model`` was, 0
    where they were not.
    """

    path: str
    rules: tuple[Rule, ...]
    model: str | None = None
    optimizer: str | None = None
    optimizer_line: int = 0
    base: tuple[Setting, ...] = ()
    default: Default = "base"
    default_line: int = 0
    schedule: ScheduleLine | None = None
    model_line: int = 0


#: A path, text, lines, or rules that were read before; :func:`read_rules` tells them apart.
RulesSource = str | Path | Sequence[str] | Rules


def read_rules(source: RulesSource) -> Rules:
    """Rules from wherever they are.

    A ``Path`` or a string is a file, but a string that names no file and has a newline, ``=`` or
    an action (``fc freeze``), or nothing at all, is the text itself; a sequence holds one line
    each. A file that cannot be read is a :class:`~surgery.errors.RuleError` too.
    """
    rules, problems = read_what_can_be(source)
    if problems:
        raise RuleError(rules.path, problems)
    return rules


def read_what_can_be(source: RulesSource) -> tuple[Rules, tuple[Problem, ...]]:
    """The rules of every line that can be read, and what is wrong with the others.

    A file that cannot be read is a :class:`~surgery.errors.RuleError`, as is what is no rules.
    """
    if isinstance(source, Rules):
        return source, ()
    return _parse(*rules_text(source))


def rules_text(source: str | Path | Sequence[str]) -> tuple[str, str]:
    """The text of rules, unread, and what to call where it is from, as :func:`read_rules` does."""
    if isinstance(source, Path) or (isinstance(source, str) and _names_a_file(source)):
        return _read_text(Path(source)), str(source)
    return (source if isinstance(source, str) else _joined(source)), "<rules>"


def _joined(lines: object) -> str:
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
        raise RuleError(
            "<rules>", [Problem(0, f"rules are a path, a text or its lines, not {lines!r:.60}")]
        )
    return "\n".join(lines)


def _names_a_file(source: str) -> bool:
    if "\n" in source or not source.strip():
        return False
    return not ("=" in source or any(map(is_action, source.split()))) or Path(source).is_file()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "; rules given as text have an action in them"
        raise RuleError(str(path), [Problem(0, f"cannot be read: {reason}{hint}")]) from None
    except UnicodeDecodeError as error:
        raise RuleError(str(path), [Problem(0, f"is no UTF-8 text: {error.reason}")]) from None


def parse_rules(text: str, path: str = "<rules>") -> Rules:
    """Read the text of a rules file; ``path`` is what errors call it."""
    rules, problems = _parse(text, path)
    if problems:
        raise RuleError(path, problems)
    return rules


def _parse(text: str, path: str) -> tuple[Rules, tuple[Problem, ...]]:
    draft = _Draft(path)
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        draft.read_line(number, line)
    rules = Rules(
        path=path,
        rules=tuple(draft.rules),
        model=draft.model,
        optimizer=draft.optimizer,
        optimizer_line=draft.optimizer_line,
        base=tuple(draft.base.values()),
        default=draft.default,
        default_line=draft.default_line,
        schedule=draft.schedule,
        model_line=draft.model_line,
    )
    return rules, tuple(draft.problems)


@dataclass(slots=True)
class _Draft:
    """The rules read so far, and the problems met on the way."""

    path: str
    rules: list[Rule] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    model: str | None = None
    model_line: int = 0
    optimizer: str | None = None
    optimizer_line: int = 0
    base: dict[str, Setting] = field(default_factory=dict)
    default: Default = "base"
    default_line: int = 0
    schedule: ScheduleLine | None = None
    schedule_line: int = 0

    def read_line(self, number: int, line: str) -> None:
        words = list(_words(line))
        if not words:
            return
        first, *rest = words
        # `model lr*=0.1` is a rule for a module called model, as many language models have.
        if first in _LINES and not (first in _ALSO_MODULES and rest and is_action(rest[0])):
            _LINES[first](self, number, rest)
        else:
            self._rule(number, words)

    def problem(self, number: int, message: str) -> None:
        self.problems.append(Problem(number, message))

    def read_model(self, number: int, words: list[str]) -> None:
        if len(words) != 1:
            self.problem(number, f"expected one architecture after model, found {_found(words)}")
        elif self.model_line:
            self.problem(number, f"the model was named in line {self.model_line} already")
        else:
            self.model, self.model_line = words[0], number

    def read_default(self, number: int, words: list[str]) -> None:
        if self.default_line:
            self.problem(number, f"the default was set in line {self.default_line} already")
        elif words == ["base"] or words == ["error"]:
            self.default, self.default_line = ("base" if words == ["base"] else "error"), number
        else:
            hint = did_you_mean(words[0], ("base", "error")) if words else ""
            self.problem(
                number, f"expected base or error after default, found {_found(words)}{hint}"
            )

    def read_base(self, number: int, words: list[str]) -> None:
        if not words:
            self.problem(number, "expected KEY=VALUE after base, as in `base lr=1e-3`")
        if _spaced(words):
            self.problem(number, _SPACED)
            return
        for word in words:
            try:
                self._setting(number, word)
            except ActionError as error:
                self.problem(number, str(error))

    def _setting(self, number: int, word: str) -> None:
        key, equals, text = word.partition("=")
        key = KEY_ALIASES.get(key, key)
        if not (equals and text and key.isidentifier()):
            raise ActionError(f"expected KEY=VALUE in a base line, found {word!r}")
        earlier = self.optimizer_line if key == "optimizer" else self._line_of(key)
        if earlier:
            raise ActionError(f"{key} was set in line {earlier} already")
        if key == "optimizer":
            self.optimizer, self.optimizer_line = text, number
        else:
            self.base[key] = Setting(key, key_value(key, text), number)

    def _line_of(self, key: str) -> int:
        return self.base[key].line if key in self.base else 0

    def read_schedule(self, number: int, words: list[str]) -> None:
        if self.schedule_line:
            self.problem(number, f"a schedule was given in line {self.schedule_line} already")
            return
        self.schedule_line = number
        try:
            self.schedule = parse_schedule(words, self.path, number)
        except ScheduleLineError as error:
            self.problems.extend(Problem(number, message) for message in error.messages)

    def read_split(self, number: int, words: list[str]) -> None:
        try:
            points, action = parse_split(words)
        except ActionError as error:
            self.problem(number, str(error))
            return
        text = " ".join(("split", *words))
        self.rules.append(Rule(number, text, parse_selector(":all"), (action,), points=points))

    def _rule(self, number: int, words: list[str]) -> None:
        text = " ".join(words)
        optional = words[0].startswith("?")
        words = [word for word in (words[0].removeprefix("?"), *words[1:]) if word]
        selector_words, action_words = _split_selector(words)
        if _spaced(words[1:]):
            self.problem(number, _SPACED)
            return
        if _starts_with_an_action(words):
            self.problem(number, f"expected a selector before {words[0]!r}, as in `fc freeze`")
            return
        selector = self._selector(number, selector_words, action_words)
        actions = self._actions(number, " ".join(selector_words), action_words)
        if selector is not None and not action_words:
            self.problem(
                number,
                f"expected an action after {selector.text!r}, as in `{selector.text} lr*=0.1`",
            )
        elif selector is not None and actions:
            self.rules.append(Rule(number, text, selector, actions, optional))

    def _selector(self, number: int, words: list[str], actions: list[str]) -> Selector | None:
        if not words:
            self.problem(number, f"expected a selector before {_found(actions[:1])}")
            return None
        try:
            return parse_selector(" ".join(words))
        except SelectorError as error:
            self.problem(number, error.message)
            return None

    def _actions(self, number: int, selector: str, words: list[str]) -> tuple[Action, ...]:
        actions: list[Action] = []
        for word in words:
            try:
                action = parse_action(word)
            except ActionError as error:
                self.problem(number, f"{error}{_comma_hint(selector, word, words)}")
                continue
            lost = next((one for one in actions if one.attribute == action.attribute), None)
            if lost and action.overwrites:
                self.problem(number, f"{action.text!r} overwrites {lost.text!r} of the same line")
            actions.append(action)
        return tuple(actions)


#: The words that start a line of another form than ``selector action+``.
_LINES: dict[str, Callable[[_Draft, int, list[str]], None]] = {
    "model": _Draft.read_model,
    "base": _Draft.read_base,
    "default": _Draft.read_default,
    "schedule": _Draft.read_schedule,
    "split": _Draft.read_split,
}

#: Those that are a selector where an action follows at once, as no line of theirs has one there.
_ALSO_MODULES = ("model", "default")


def _starts_with_an_action(words: list[str]) -> bool:
    """``freeze layer1`` does; ``freeze lr=0.1`` is about a module called freeze."""
    if not words or not is_action(words[0]):
        return False
    return _is_assignment(words[0]) or not any(map(is_action, words[1:]))


_SPACED = "put no blanks around =, as in `lr=0.01` and `lr*=0.1`"


def _spaced(words: Sequence[str]) -> bool:
    """Whether an assignment was torn apart: ``lr = 0.01``, ``lr =0.01``, ``lr= 0.01``."""
    torn = any(word.startswith(("=", "*=")) for word in words)
    return torn or any(
        word.endswith("=") and not is_action(after) for word, after in pairwise(words)
    )


def _comma_hint(selector: str, word: str, words: Sequence[str]) -> str:
    """For ``layer1 layer2 freeze``: a word before the actions that looks like none of them."""
    actions = words[words.index(word) + 1 :]
    if is_action(word) or resembles_an_action(word) or not any(map(is_action, actions)):
        return ""
    return f"; put a comma between selectors, as in `{selector}, {word}`"


def _found(words: Iterable[str]) -> str:
    return " ".join(words) or "nothing"


def _split_selector(words: list[str]) -> tuple[list[str], list[str]]:
    """The selector's words and the rest: a word joins it by the operator before or in front.

    So ``layer1 freze`` is a selector and a misspelled action, not a selector of two names.
    """
    end = 0
    for index, word in enumerate(words):
        joined = index == 0 or words[index - 1][-1] in ",&!" or word[0] in ",&"
        if not joined or _is_assignment(word):
            break
        end = index + 1
    return words[:end], words[end:]


def _is_assignment(word: str) -> bool:
    return "=" in word and is_action(word)


def _words(line: str) -> Iterator[str]:
    """Words between blanks, up to a comment; a ``/regex/`` may hold blanks and ``#``."""
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        if line[position] == "#":
            return
        end = _end_of_word(line, position)
        yield line[position:end]
        position = end


def _end_of_word(line: str, start: int) -> int:
    position = start
    while position < len(line) and not line[position].isspace():
        opens_regex = line[position] == "/" and (position == start or line[position - 1] in "?!,&")
        position = end_of_regex(line, position) if opens_regex else position + 1
    return position
