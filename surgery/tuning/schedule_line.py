"""The ``schedule`` line of a rules file: which of torch's schedulers, and with what.

::

    schedule NAME [key=value ...] [by=epoch|step] [warmup=N] [warmup_from=F]

    schedule cosine floor=0.01 warmup=2
    schedule sgdr T_0=1epoch T_mult=2 by=step

NAME is torch's class in any case, or a short form, and the keys are torch's. Three things differ,
so that no schedule changes the ratio between groups:

- ``floor`` stands for ``eta_min`` and ``min_lr``: a share of each group's own rate;
- the peak of ``OneCycleLR`` is each group's own rate, and nothing has to be given for it;
- durations are whole numbers in the unit of ``by``, which is what one call of the schedule's
  ``step()`` stands for; ``3epochs`` says epochs whatever the unit.

``warmup=N`` rises linearly to where the schedule starts, from the share ``warmup_from`` of that
(a hundredth by default). ``T_max`` of the cosine and ``total_steps`` of ``OneCycleLR`` are what
is left of the run after it, unless they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgery.errors import did_you_mean

Unit = Literal["epoch", "step"]


@dataclass(frozen=True, slots=True)
class Epochs:
    """A duration that is in epochs whatever the unit of the schedule: ``3epochs``."""

    count: int

    def __str__(self) -> str:
        return f"{self.count}epoch{'' if self.count == 1 else 's'}"


#: A number of units of ``by``, or of epochs.
Duration = int | Epochs


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """A ``schedule`` line, read. ``kind`` is torch's class, ``settings`` the keys that were given.

    ``path`` and ``line`` are where it was said, and ``text`` is how.
    """

    path: str
    line: int
    text: str
    kind: str
    settings: tuple[tuple[str, Any], ...] = ()
    by: Unit = "epoch"
    warmup: Duration | None = None
    warmup_from: float = 0.01

    @property
    def canonical(self) -> str:
        """The line in one spelling, whatever order and short form it was written in."""
        words = [f"{key}={_text(value)}" for key, value in sorted(self.settings)]
        words.append(f"by={self.by}")
        if self.warmup is not None:
            words += [f"warmup={self.warmup}", f"warmup_from={self.warmup_from}"]
        return " ".join((self.kind, *words))


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class ScheduleLineError(ValueError):
    """Everything wrong with one line; the reader of the rules adds where it is."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        super().__init__("; ".join(messages))


def parse_schedule(words: Sequence[str], path: str, line: int) -> ScheduleLine:
    """Read the words after ``schedule``; what is wrong with them is a ScheduleLineError."""
    kind = _kind(words)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for word in words[1:]:
        try:
            key, value = _setting(word, kind)
            if key in values:
                raise ValueError(f"{key} is given twice")
            values[key] = value
        except ValueError as error:
            problems.append(str(error))
    problems += _missing(kind, values, words[1:])
    problems += _at_odds(kind, values)
    if problems:
        raise ScheduleLineError(problems)
    own = {key: values.pop(key) for key in ("by", "warmup", "warmup_from") if key in values}
    return ScheduleLine(
        path, line, " ".join(("schedule", *words)), kind, tuple(values.items()), **own
    )


def _kind(words: Sequence[str]) -> str:
    names = {**{kind.lower(): kind for kind in _KEYS}, **SHORT_NAMES}
    there_are = f"; there are {', '.join(SHORT_NAMES)}"
    if not words or "=" in words[0]:
        found = repr(words[0]) if words else "nothing"
        raise ScheduleLineError([f"expected a schedule's name, found {found}{there_are}"])
    name = words[0].lower()
    if name not in names:
        hint = did_you_mean(name, names) or there_are
        raise ScheduleLineError([f"no schedule is called {words[0]!r}{hint}"])
    return names[name]


def _setting(word: str, kind: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not text:
        raise ValueError(f"expected KEY=VALUE, found {word!r}")
    readers = {**_KEYS[kind], **_EVERY}
    if key in readers:
        return key, readers[key](key, text)
    if key in _ABSOLUTE:
        raise ValueError(f"{key} is absolute and would change the ratios: {_instead(kind)}")
    raise ValueError(f"{kind} has no key {key!r}{_known(key, readers)}")


def _instead(kind: str) -> str:
    if kind == "OneCycleLR":
        return "the peak is each group's own rate, div_factor and final_div_factor give the rest"
    if "floor" in _KEYS[kind]:
        return "floor=F is a share of each group's own rate"
    return "each group has its own rate, given by the rules"


def _known(key: str, readers: Mapping[str, object]) -> str:
    return did_you_mean(key, readers) or f"; there are {', '.join(readers)}"


def _missing(kind: str, values: Mapping[str, Any], words: Sequence[str]) -> Iterator[str]:
    said = {word.partition("=")[0] for word in words}
    for key in _NEEDED.get(kind, ()):
        if key not in said:
            yield f"{kind} needs {key}="
    if "warmup_from" in said and "warmup" not in said:
        yield "warmup_from= needs warmup=, how long it lasts"


def _at_odds(kind: str, values: Mapping[str, Any]) -> Iterator[str]:
    if kind != "OneCycleLR":
        return
    low, high = ({**_MOMENTA, **values}[key] for key in _MOMENTA)
    if low > high:
        yield f"base_momentum is {low:g} and max_momentum {high:g}: the base is the lower end"


# --- values -------------------------------------------------------------------------------------

Reader = Callable[[str, str], Any]


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{key}: expected a finite number, found {text!r}")
    return value


def _positive(key: str, text: str) -> float:
    value = _number(key, text)
    if value <= 0:
        raise ValueError(f"{key}: expected a number above 0, found {text}")
    return value


def _not_negative(key: str, text: str) -> float:
    value = _number(key, text)
    if value < 0:
        raise ValueError(f"{key}: expected a number from 0, found {text}")
    return value


def _share(key: str, text: str) -> float:
    value = _number(key, text)
    if not 0 <= value <= 1:
        raise ValueError(f"{key}: expected a share of each group's rate, 0 to 1, found {text}")
    return value


def _divisor(key: str, text: str) -> float:
    value = _number(key, text)
    if value < 1:
        raise ValueError(f"{key}: expected a number from 1, for the peak is highest, found {text}")
    return value


def _start(key: str, text: str) -> float:
    value = _number(key, text)
    if not 0 < value <= 1:
        raise ValueError(f"{key}: expected a share above 0 and up to 1, found {text}")
    return value


def _between(key: str, text: str) -> float:
    value = _number(key, text)
    if not 0 < value < 1:
        raise ValueError(f"{key}: expected a number between 0 and 1, found {text}")
    return value


def _at_least(smallest: int) -> Reader:
    def read(key: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= smallest):
            raise ValueError(f"{key}: expected a whole number from {smallest}, found {text!r}")
        return int(text)

    return read


def _duration(key: str, text: str) -> Duration:
    number = text.removesuffix("s").removesuffix("epoch")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise ValueError(f"{key}: expected a whole number from 1, or 3epochs, found {text!r}")
    return int(number) if number == text else Epochs(int(number))


def _milestones(key: str, text: str) -> tuple[Duration, ...]:
    found = [_duration(key, part) for part in text.split(",")]
    counts = [one.count if isinstance(one, Epochs) else one for one in found]
    if counts != sorted(set(counts)):
        raise ValueError(f"{key}: expected later and later ones, found {text}")
    if len(set(map(type, found))) > 1:
        raise ValueError(f"{key}: expected one unit for all of them, found {text}")
    return tuple(found)


def _one_of(*words: str) -> Reader:
    def read(key: str, text: str) -> str:
        if text not in words:
            hint = did_you_mean(text, words) or f"; there are {', '.join(words)}"
            raise ValueError(f"{key}: found {text!r}{hint}")
        return text

    return read


def _truth(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{key}: expected true or false, found {text!r}")
    return text.lower() == "true"


#: The keys of each of torch's schedulers, and how each is read.
_KEYS: Mapping[str, Mapping[str, Reader]] = {
    "StepLR": {"step_size": _duration, "gamma": _positive},
    "MultiStepLR": {"milestones": _milestones, "gamma": _positive},
    "ExponentialLR": {"gamma": _positive},
    "CosineAnnealingLR": {"T_max": _duration, "floor": _share},
    "CosineAnnealingWarmRestarts": {"T_0": _duration, "T_mult": _at_least(1), "floor": _share},
    "OneCycleLR": {
        "total_steps": _duration,
        "pct_start": _between,
        "anneal_strategy": _one_of("cos", "linear"),
        "cycle_momentum": _truth,
        "base_momentum": _between,
        "max_momentum": _between,
        "div_factor": _divisor,
        "final_div_factor": _positive,
        "three_phase": _truth,
    },
    "ReduceLROnPlateau": {
        "mode": _one_of("min", "max"),
        "factor": _between,
        "patience": _at_least(0),
        "threshold": _not_negative,
        "threshold_mode": _one_of("rel", "abs"),
        "cooldown": _at_least(0),
        "floor": _share,
    },
}

_EVERY: Mapping[str, Reader] = {
    "by": _one_of("epoch", "step"),
    "warmup": _duration,
    "warmup_from": _start,
}

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "StepLR": ("step_size",),
    "MultiStepLR": ("milestones",),
    "ExponentialLR": ("gamma",),
    "CosineAnnealingWarmRestarts": ("T_0",),
}

#: Torch's defaults for the ends between which OneCycleLR moves the momentum, the lower one first.
_MOMENTA: Mapping[str, float] = {"base_momentum": 0.85, "max_momentum": 0.95}

#: Keys of torch's that are rates, one number for all groups.
_ABSOLUTE = frozenset({"eta_min", "min_lr", "max_lr", "base_lr", "eps"})

SHORT_NAMES: Mapping[str, str] = {
    "step": "StepLR",
    "multistep": "MultiStepLR",
    "exponential": "ExponentialLR",
    "cosine": "CosineAnnealingLR",
    "sgdr": "CosineAnnealingWarmRestarts",
    "onecycle": "OneCycleLR",
    "plateau": "ReduceLROnPlateau",
}
