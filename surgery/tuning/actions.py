"""One word of a rule to what it does: ``lr*=0.1``, ``freeze``, ``unfreeze@3``, ``bn=eval``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from surgery.errors import did_you_mean, nearest

Value = float | int | bool | str | tuple[float | int | bool | str | None, ...] | None

#: Up to ``split`` they change a hyper-parameter; the others have a value of their own.
ActionKind = Literal["set", "scale", "decay", "spread", "split", "when", "bn", "name"]

#: How rule files may write the optimizers' keys.
KEY_ALIASES = {"wd": "weight_decay"}

_WORDS = ("freeze", "train", "unfreeze@N", "bn=eval", "bn=train", "decay=F", "name=ID")
_KEYED = re.compile(r"(?P<key>[A-Za-z_]\w*)(?P<operator>\*?=)(?P<value>.*)", re.DOTALL)
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("none", "null")),
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class ActionError(ValueError):
    """A word that is no action; the reader of the rules adds the line."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does to one attribute of what it matches.

    ``attribute`` is what a later ``=`` overwrites: a key of the optimizer for ``set``, ``scale``
    and ``decay`` (which scales ``lr`` once per depth above), else the kind itself. The value of
    ``when`` is ``"train"``, ``"frozen"`` or the epoch at which training starts. That of
    ``spread`` is the two ends and that of ``split`` one rate for each part: which of them a
    parameter gets depends on the model, see :mod:`surgery.tuning.differential`.
    """

    text: str
    kind: ActionKind
    attribute: str
    value: Value

    @property
    def overwrites(self) -> bool:
        """Whether what earlier actions did to the attribute is lost."""
        return self.kind not in ("scale", "decay")

    @property
    def is_hyper(self) -> bool:
        """Whether the attribute is a key of the optimizer."""
        return self.kind in ("set", "scale", "decay", "spread", "split")

    @property
    def is_differential(self) -> bool:
        """Whether the value differs from parameter to parameter."""
        return self.kind in ("spread", "split")


def is_action(word: str) -> bool:
    """Whether a word has the form of an action, misspelled or not: no selector has ``=``."""
    return word in ("freeze", "train") or word.startswith("unfreeze@") or bool(_KEYED.match(word))


def resembles_an_action(word: str) -> bool:
    """Whether a word looks like a misspelled action rather than like a name."""
    return bool(nearest(word, _WORDS))


def parse_action(word: str) -> Action:
    """Read one action; what is wrong with it is an :class:`ActionError`."""
    if word == "freeze":
        return Action(word, "when", "when", "frozen")
    if word == "train":
        return Action(word, "when", "when", "train")
    if word.startswith("unfreeze@"):
        return Action(word, "when", "when", _epoch(word))
    keyed = _KEYED.fullmatch(word)
    if keyed is None:
        hint = did_you_mean(word, _WORDS) or f"; there are KEY=V, KEY*=F, {', '.join(_WORDS)}"
        raise ActionError(f"{word!r} is no action{hint}")
    return _keyed(word, keyed["key"], keyed["operator"], keyed["value"])


def _epoch(word: str) -> str | int:
    number = word.removeprefix("unfreeze@")
    if not (number.isascii() and number.isdigit()):
        raise ActionError(f"{word!r}: expected an epoch from 0 after unfreeze@, found {number!r}")
    return int(number) or "train"


def _keyed(word: str, key: str, operator: str, text: str) -> Action:
    key = KEY_ALIASES.get(key, key)
    if operator == "*=":
        if key in ("decay", "bn", "name"):
            raise ActionError(f"{word!r}: {key} is set with =, it cannot be scaled")
        return Action(word, "scale", key, _rate(word, text))
    if key == "decay":
        return Action(word, "decay", "lr", _decay(word, text))
    if key == "bn":
        if text not in ("eval", "train"):
            raise ActionError(f"{word!r}: expected bn=eval or bn=train, found {text!r}")
        return Action(word, "bn", "bn", text)
    if key == "name":
        if not text:
            raise ActionError(f"{word!r}: expected a name for the group after name=")
        return Action(word, "name", "name", text)
    if key == "lr" and ".." in text:
        return Action(word, "spread", "lr", _ends(word, text))
    return Action(word, "set", key, key_value(key, text))


def parse_split(words: Sequence[str]) -> tuple[tuple[str, ...], Action]:
    """The points of a ``split`` line and the action that gives a rate to each part.

    >>> points, action = parse_split(["layer2", "fc", "lr=1e-7,1e-4,1e-2"])
    >>> points, action.value
    (('layer2', 'fc'), (1e-07, 0.0001, 0.01))
    """
    points = tuple(word for word in words if "=" not in word)
    if not points or tuple(words[:-1]) != points:
        found = " ".join(words) or "nothing"
        raise ActionError(
            f"expected POINT ... lr=RATE,RATE,... after split, as in "
            f"`split layer2 fc lr=1e-7,1e-4,1e-2`, found {found!r}"
        )
    key, _, text = words[-1].partition("=")
    if key != "lr":
        raise ActionError(f"{words[-1]!r}: a split gives rates, lr=RATE,RATE,...")
    rates = tuple(_positive_rate(words[-1], part) for part in text.split(","))
    if len(rates) != len(points) + 1:
        raise ActionError(
            f"{words[-1]!r}: expected {len(points) + 1} rates, one more than split points, "
            f"found {len(rates)}"
        )
    return points, Action(words[-1], "split", "lr", rates)


def _ends(word: str, text: str) -> tuple[float, float]:
    lowest, _, highest = text.partition("..")
    return _positive_rate(word, lowest), _positive_rate(word, highest)


def _positive_rate(word: str, text: str) -> float:
    value = _rate(word, text)
    if value == 0:
        raise ActionError(f"{word!r}: expected rates above 0, found {text}")
    return value


def key_value(key: str, text: str) -> Value:
    """The value of ``key=text``; rates and decays are finite numbers from 0."""
    if key in ("lr", "weight_decay"):
        return _rate(f"{key}={text}", text)
    return parse_value(text)


def _rate(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ActionError(f"{word!r}: expected a number, found {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise ActionError(f"{word!r}: expected a finite number from 0, found {text}")
    return value


def _decay(word: str, text: str) -> float:
    value = _rate(word, text)
    if not 0 < value <= 1:
        raise ActionError(f"{word!r}: expected a factor above 0 and up to 1, found {text}")
    return value


def parse_value(text: str) -> Value:
    """A number, a boolean, ``none``, several of them between commas, or a word.

    ``true``, ``yes`` and ``on`` are one boolean, ``false``, ``no`` and ``off`` the other, in any
    case. Quotes keep a word a word. Infinities and NaN are refused: no optimizer means them.

    >>> [parse_value(text) for text in ("0.9,0.999", "5", "true", "none", "'none'")]
    [(0.9, 0.999), 5, True, None, 'none']
    """
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    if "," in inner:
        return tuple(_scalar(part.strip()) for part in inner.rstrip(",").split(","))
    return _scalar(inner)


def _scalar(text: str) -> float | int | bool | str | None:
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else _finite(text)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if not text or text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
        raise ActionError(f"expected a value, found {text!r}")
    return text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ActionError(f"expected a finite number, found {text!r}")
    return value
