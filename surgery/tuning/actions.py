"""One word of a rule to what it does: ``lr*=0.1``, ``freeze``, ``unfreeze@3``, ``bn=eval``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgery.errors import did_you_mean, nearest
from surgery.tuning.words import (
    Reader,
    Value,
    WordError,
    factor,
    from_zero,
    one_of,
    parse_value,
    positive,
    whole,
)

#: Up to ``split`` they change a hyper-parameter; the others have a value of their own.
ActionKind = Literal["set", "scale", "decay", "spread", "split", "when", "bn", "name"]

#: How rule files may write the optimizers' keys.
KEY_ALIASES = {"wd": "weight_decay"}

_WORDS = ("freeze", "train", "unfreeze@N", "bn=eval", "bn=train", "decay=F", "name=ID")
_KEYED = re.compile(r"(?P<key>[A-Za-z_]\w*)(?P<operator>\*?=)(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does to one attribute of what it matches.

    ``attribute`` is what a later ``=`` overwrites: a key of the optimizer for ``set``, ``scale``
    and ``decay`` (which scales ``lr`` once per depth above), else the kind itself. The value of
    ``when`` is ``"train"``, ``"frozen"`` or the epoch at which training starts. That of
    ``spread`` is the two ends and that of ``split`` one learning rate for each part: what a
    parameter gets of these three depends on the model, see :mod:`surgery.tuning.differential`.
    """

    text: str
    kind: ActionKind
    attribute: str
    value: Value

    @property
    def overwrites(self) -> bool:
        """Whether what earlier actions did to the attribute is lost; else it is scaled."""
        return self.kind not in ("scale", "decay")

    @property
    def is_hyper(self) -> bool:
        """Whether the attribute is a key of the optimizer."""
        return self.kind not in ("when", "bn", "name")


def is_assignment(word: str) -> bool:
    """Whether a word has the form ``key=value`` or ``key*=value``."""
    return bool(_KEYED.match(word))


def is_action(word: str) -> bool:
    """Whether a word has the form of an action, misspelled or not: no selector has ``=``."""
    return word in ("freeze", "train") or word.startswith("unfreeze@") or is_assignment(word)


def resembles_an_action(word: str) -> bool:
    """Whether a word looks like a misspelled action rather than like a name."""
    return bool(nearest(word, _WORDS))


def parse_action(word: str) -> Action:
    """Read one action; what is wrong with it is a :class:`WordError`."""
    if word == "freeze":
        return Action(word, "when", "when", "frozen")
    if word == "train":
        return Action(word, "when", "when", "train")
    if word.startswith("unfreeze@"):
        epoch = _read(word, whole(0), word.removeprefix("unfreeze@"))
        return Action(word, "when", "when", epoch or "train")
    keyed = _KEYED.fullmatch(word)
    if keyed is None:
        hint = did_you_mean(word, _WORDS) or f"; there are KEY=V, KEY*=F, {', '.join(_WORDS)}"
        raise WordError(f"{word!r} is no action{hint}")
    key, text = KEY_ALIASES.get(keyed["key"], keyed["key"]), keyed["value"]
    if keyed["operator"] == "*=":
        if key in _OWN_KEYS:
            raise WordError(f"{word!r}: {key} is set with =, it cannot be scaled")
        return Action(word, "scale", key, _read(word, from_zero, text))
    if key in _OWN_KEYS:
        kind, attribute, reader = _OWN_KEYS[key]
        return Action(word, kind, attribute, _read(word, reader, text))
    if key == "lr" and ".." in text:
        lowest, _, highest = text.partition("..")
        ends = tuple(_read(word, positive, text) for text in (lowest, highest))
        return Action(word, "spread", "lr", ends)
    return Action(word, "set", key, key_value(key, text))


def parse_split(words: Sequence[str]) -> tuple[tuple[str, ...], Action]:
    """The points of a ``split`` line and the action that gives a learning rate to each part.

    >>> points, action = parse_split(["layer2", "fc", "lr=1e-7,1e-4,1e-2"])
    >>> points, action.value
    (('layer2', 'fc'), (1e-07, 0.0001, 0.01))
    """
    points = tuple(word for word in words if "=" not in word)
    if not points or tuple(words[:-1]) != points:
        found = " ".join(words) or "nothing"
        raise WordError(
            f"expected POINT ... lr=RATE,RATE,... after split, as in "
            f"`split layer2 fc lr=1e-7,1e-4,1e-2`, found {found!r}"
        )
    key, _, text = words[-1].partition("=")
    if key != "lr":
        raise WordError(f"{words[-1]!r}: a split gives learning rates, lr=RATE,RATE,...")
    rates = tuple(_read(words[-1], positive, part) for part in text.split(","))
    return points, Action(words[-1], "split", "lr", rates)


def key_value(key: str, text: str) -> Value:
    """The value of ``key=text`` for an optimizer's key; WordError where it is none."""
    value: Value = _read(f"{key}={text}", _HYPER.get(key, parse_value), text)
    return value


def _read(word: str, reader: Reader, text: str) -> Any:
    try:
        return reader(text)
    except WordError as error:
        raise WordError(f"{word!r}: {error}") from None


def _group_name(text: str) -> str:
    if not text:
        raise WordError("expected a name for the group after name=")
    return text


#: Keys that no optimizer has: the kind of the action, its attribute, and how its value is read.
_OWN_KEYS: dict[str, tuple[ActionKind, str, Reader]] = {
    "decay": ("decay", "lr", factor),
    "bn": ("bn", "bn", one_of("eval", "train")),
    "name": ("name", "name", _group_name),
}

#: Optimizers' keys that no optimizer takes as anything but a number from 0.
_HYPER: dict[str, Reader] = {"lr": from_zero, "weight_decay": from_zero}
