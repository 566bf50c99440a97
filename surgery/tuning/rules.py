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
    layer[34]       lr=1e-5..1e-2           # one for each stage of what is selected
    schedule cosine floor=0.01 warmup=2     # see surgery.tuning.schedule_line

Lines run top to bottom, each attribute for itself: ``=`` sets, ``*=`` scales, the last ``=``
wins. A comment starts with ``#`` at the start of a word. The words ``model``, ``base``,
``default``, ``split`` and ``schedule`` start their lines; a module of that name is written
``base.**``.

``split`` takes points in the model's own order and one learning rate more than points: the first
for everything before the first point, the last from the last point on. ``lr=A..B`` gives A to the
lowest stage of what is selected and B to the highest, and those between them learning rates that
grow by one factor from stage to stage; stages are the depths of ``decay``. Both set ``lr``, as
``lr=F`` does, so an exception goes below them.

Everything wrong in a text is raised at once, as one :class:`~surgery.errors.RuleError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from surgery.checkpoint.text import lines_of, read_text
from surgery.errors import Problem, RuleError, did_you_mean
from surgery.patterns import Selector, end_of_regex, is_plain, parse_selector
from surgery.tuning.actions import (
    KEY_ALIASES,
    Action,
    is_action,
    is_assignment,
    key_value,
    parse_action,
    parse_split,
    resembles_an_action,
)
from surgery.tuning.schedule_line import ScheduleLine, parse_schedule
from surgery.tuning.words import Value, WordError, noted
from surgery.wording import shortened


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

    ``base`` are the keys of all ``base`` lines but ``optimizer=``, which is ``optimizer``;
    ``default`` is ``"base"`` or ``"error"``. ``lines`` are those of ``model``, ``optimizer``,
    ``default`` and every key of ``base``, where they are given.
    """

    path: str
    rules: tuple[Rule, ...]
    base: Mapping[str, Value]
    model: str | None
    optimizer: str | None
    default: str
    schedule: ScheduleLine | None
    lines: Mapping[str, int]


#: A path, text, lines, or rules that were read before: what :func:`read_rules` takes.
RulesSource = str | Path | Sequence[str] | Rules


def read_rules(source: RulesSource) -> Rules:
    """Rules from wherever they are.

    A ``Path`` or a string is a file, but a string that names no file and has a newline, ``=``, an
    action (``fc freeze``) or the first word of another line (``schedule cosine``), or nothing at
    all, is the text itself; a sequence holds one line each. A file that cannot be read is a
    :class:`~surgery.errors.RuleError` too.
    """
    return source if isinstance(source, Rules) else parse_rules(*rules_text(source))


def parse_rules(text: str, path: str = "<rules>") -> Rules:
    """Read the text of a rules file; ``path`` is what errors call it."""
    rules, problems = _parse(text, path)
    if problems:
        raise RuleError(path, problems)
    return rules


def read_what_can_be(source: RulesSource) -> tuple[Rules, tuple[Problem, ...]]:
    """The rules of every line that can be read, and what is wrong with the others.

    A file that cannot be read is a :class:`~surgery.errors.RuleError`, as is what is no rules.
    """
    return (source, ()) if isinstance(source, Rules) else _parse(*rules_text(source))


def rules_text(source: str | Path | Sequence[str]) -> tuple[str, str]:
    """The text of rules, unread, and what to call where it is from, as :func:`read_rules` does."""
    if isinstance(source, Path) or (isinstance(source, str) and _names_a_file(source)):
        hint = "; rules given as text have an action in them"
        return read_text(source, RuleError, hint=hint), str(source)
    if isinstance(source, str):
        return source, "<rules>"
    if not isinstance(source, Sequence) or not all(isinstance(line, str) for line in source):
        message = f"rules are a path, a text or its lines, not {shortened(repr(source))}"
        raise RuleError("<rules>", [Problem(0, message)])
    return "\n".join(source), "<rules>"


def as_selector(path: str) -> str:
    r"""How a line names this path and all below it: as it is, or as a regular expression where it
    would be read as something else.

    >>> as_selector("layer1.0"), as_selector("base")
    ('layer1.0', '/^base(\\.|$)/')
    """
    if is_plain(path) and (path not in _LINES or path in _ALSO_MODULES):
        return path
    return f"/^{re.escape(path).replace('/', chr(92) + '/')}(\\.|$)/"


def _names_a_file(source: str) -> bool:
    words = source.split()
    if "\n" in source or not words:
        return False
    is_text = "=" in source or any(map(is_action, words)) or (words[0] in _LINES and words[1:])
    return not is_text or os.path.isfile(source)


def _parse(text: str, path: str) -> tuple[Rules, tuple[Problem, ...]]:
    draft = _Draft(path)
    problems: list[Problem] = []
    for number, line in enumerate(lines_of(text.removeprefix("\ufeff")), start=1):
        try:
            draft.read_line(number, list(_words(line)))
        except WordError as error:
            problems += (Problem(number, message) for message in error.args)
    return Rules(**{**vars(draft), "rules": tuple(draft.rules)}), tuple(problems)


@dataclass
class _Draft:
    """The rules read so far. What is wrong with a line is a WordError, what is right is kept."""

    path: str
    rules: list[Rule] = field(default_factory=list)
    base: dict[str, Value] = field(default_factory=dict)
    model: str | None = None
    optimizer: str | None = None
    default: str = "base"
    schedule: ScheduleLine | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def read_line(self, number: int, words: list[str]) -> None:
        if not words:
            return
        first, *rest = words
        # `model lr*=0.1` is a rule for a module called model, as many language models have.
        if first in _LINES and not (first in _ALSO_MODULES and rest and is_action(rest[0])):
            _LINES[first](self, number, rest)
        else:
            self.read_rule(number, words)

    def read_model(self, number: int, words: list[str]) -> None:
        if len(words) != 1:
            raise WordError(f"expected one architecture after model, found {_found(words)}")
        self._give_once("model", number)
        self.model = words[0]

    def read_default(self, number: int, words: list[str]) -> None:
        if words not in (["base"], ["error"]):
            hint = did_you_mean(words[0], ("base", "error")) if words else ""
            raise WordError(f"expected base or error after default, found {_found(words)}{hint}")
        self._give_once("default", number)
        self.default = words[0]

    def read_base(self, number: int, words: list[str]) -> None:
        if not words:
            raise WordError("expected KEY=VALUE after base, as in `base lr=1e-3`")
        _refuse_torn(words)
        problems: list[str] = []
        for word in words:
            with noted(problems):
                self._read_setting(number, word)
        if problems:
            raise WordError(*problems)

    def _read_setting(self, number: int, word: str) -> None:
        key, _, text = word.partition("=")
        key = KEY_ALIASES.get(key, key)
        if not (text and key.isidentifier()):
            raise WordError(f"expected KEY=VALUE in a base line, found {word!r}")
        if key == "optimizer":
            self._give_once(key, number)
            self.optimizer = text
        else:
            value = key_value(key, text)
            self._give_once(key, number)
            self.base[key] = value

    def _give_once(self, word: str, number: int) -> None:
        if word in self.lines:
            raise WordError(f"{word} was given in line {self.lines[word]} already")
        self.lines[word] = number

    def read_schedule(self, number: int, words: list[str]) -> None:
        self._give_once("schedule", number)
        self.schedule = parse_schedule(words, self.path, number)

    def read_split(self, number: int, words: list[str]) -> None:
        points, action = parse_split(words)
        text = " ".join(("split", *words))
        self.rules.append(Rule(number, text, parse_selector(":all"), (action,), points=points))

    def read_rule(self, number: int, words: list[str]) -> None:
        text, optional = " ".join(words), words[0].startswith("?")
        words = [word for word in (words[0].removeprefix("?"), *words[1:]) if word]
        _refuse_torn(words[1:])
        if not words or _starts_with_an_action(words):
            found = repr(words[0]) if words else "nothing"
            raise WordError(f"expected a selector before {found}, as in `fc freeze`")
        selector_words, action_words = _split_selector(words)
        named = " ".join(selector_words)
        problems: list[str] = []
        selector = None
        with noted(problems):
            selector = parse_selector(named)
            if not action_words:
                raise WordError(f"expected an action after {named!r}, as in `{named} lr*=0.1`")
        actions = _read_actions(named, action_words, problems)
        if selector and actions:
            self.rules.append(Rule(number, text, selector, actions, optional))
        if problems:
            raise WordError(*problems)


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


def _read_actions(selector: str, words: list[str], problems: list[str]) -> tuple[Action, ...]:
    actions: list[Action] = []
    for at, word in enumerate(words):
        try:
            action = parse_action(word)
        except WordError as error:
            problems.append(f"{error}{_comma_hint(selector, word, words[at + 1 :])}")
            continue
        lost = next((one for one in actions if one.attribute == action.attribute), None)
        if lost and action.overwrites:
            problems.append(f"{action.text!r} overwrites {lost.text!r} of the same line")
        actions.append(action)
    return tuple(actions)


def _comma_hint(selector: str, word: str, after: Sequence[str]) -> str:
    """For ``layer1 layer2 freeze``: a word before the actions that looks like none of them."""
    if is_action(word) or resembles_an_action(word) or not any(map(is_action, after)):
        return ""
    return f"; put a comma between selectors, as in `{selector}, {word}`"


def _starts_with_an_action(words: list[str]) -> bool:
    """``freeze layer1`` does; ``freeze lr=0.1`` is about a module called freeze."""
    is_module = any(map(is_action, words[1:])) and not is_assignment(words[0])
    return is_action(words[0]) and not is_module


def _refuse_torn(words: Sequence[str]) -> None:
    """An assignment was torn apart in ``lr = 0.01``, ``lr =0.01`` and ``lr= 0.01``."""
    torn = (after for word, after in pairwise(words) if word.endswith("=") and not is_action(after))
    if any(word.startswith(("=", "*=")) for word in words) or any(torn):
        raise WordError("put no blanks around =, as in `lr=0.01` and `lr*=0.1`")


def _found(words: Sequence[str]) -> str:
    return " ".join(words) or "nothing"


def _split_selector(words: list[str]) -> tuple[list[str], list[str]]:
    """The selector's words and the rest: a word joins it by the operator before or in front.

    So ``layer1 freze`` is a selector and a misspelled action, not a selector of two names.
    """
    end = 1
    while end < len(words):
        joined = words[end - 1][-1] in ",&!" or words[end][0] in ",&"
        if not joined or is_assignment(words[end]):
            break
        end += 1
    return words[:end], words[end:]


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
