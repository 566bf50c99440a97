"""The ``schedule`` line of a rules file: which of torch's schedulers, and with what.

::

    schedule NAME [key=value ...] [by=epoch|step] [warmup=N] [warmup_from=F]

    schedule cosine floor=0.01 warmup=2
    schedule sgdr T_0=1epoch T_mult=2 by=step

NAME is torch's class in any case, or a short form, and the keys are torch's. Three things differ,
so that no schedule changes the ratio between groups:

- ``floor`` stands for ``eta_min`` and ``min_lr``: a share of each group's own learning rate;
- the peak of ``OneCycleLR`` is each group's own learning rate, nothing has to be given for it;
- durations are whole numbers in the unit of ``by``, which is what one call of the schedule's
  ``step()`` stands for; ``3epochs`` says epochs whatever the unit.

``warmup=N`` rises linearly to where the schedule starts, from the share ``warmup_from`` of that
(a hundredth by default). ``T_max`` of the cosine and ``total_steps`` of ``OneCycleLR`` are what
is left of the run after it, unless they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgery.errors import did_you_mean
from surgery.tuning.words import (
    Reader,
    WordError,
    factor,
    from_zero,
    noted,
    number,
    one_of,
    positive,
    truth,
    whole,
)

Unit = Literal["epoch", "step"]


@dataclass(frozen=True, slots=True)
class Epochs:
    """A duration that is in epochs whatever the unit of the schedule: ``3epochs``."""

    count: int

    def __str__(self) -> str:
        return f"{self.count}epoch{'' if self.count == 1 else 's'}"


#: A number of units of a schedule's ``by``, or of epochs.
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


def parse_schedule(words: Sequence[str], path: str, line: int) -> ScheduleLine:
    """Read the words after ``schedule``; everything wrong with them is one WordError."""
    kind = _kind(words)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for word in words[1:]:
        with noted(problems):
            key, value = _setting(word, kind)
            if key in values:
                raise WordError(f"{key} is given twice")
            values[key] = value
    problems += _contradictions(kind, {word.partition("=")[0] for word in words[1:]}, values)
    if problems:
        raise WordError(*problems)
    own = {key: values.pop(key) for key in _EVERY if key in values}
    return ScheduleLine(
        path, line, " ".join(("schedule", *words)), kind, tuple(values.items()), **own
    )


def _kind(words: Sequence[str]) -> str:
    short = {kind.short: name for name, kind in _KINDS.items()}
    names = {**{name.lower(): name for name in _KINDS}, **short}
    there_are = f"; there are {', '.join(short)}"
    if not words or "=" in words[0]:
        found = repr(words[0]) if words else "nothing"
        raise WordError(f"expected a schedule's name, found {found}{there_are}")
    written = words[0].lower()
    if written not in names:
        hint = did_you_mean(written, names) or there_are
        raise WordError(f"no schedule is called {words[0]!r}{hint}")
    return names[written]


def _setting(word: str, kind: str) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    if not text:
        raise WordError(f"expected KEY=VALUE, found {word!r}")
    readers = {**_KINDS[kind].keys, **_EVERY}
    if key in readers:
        try:
            return key, readers[key](text)
        except WordError as error:
            raise WordError(f"{key}: {error}") from None
    if key in _ABSOLUTE:
        raise WordError(
            f"{key} is absolute and would change the ratios of learning rates: {_instead(kind)}"
        )
    hint = did_you_mean(key, readers) or f"; there are {', '.join(readers)}"
    raise WordError(f"{kind} has no key {key!r}{hint}")


def _instead(kind: str) -> str:
    if kind == "OneCycleLR":
        return "the peak is each group's own, div_factor and final_div_factor give the rest"
    if "floor" in _KINDS[kind].keys:
        return "floor=F is a share of each group's own"
    return "each group has its own, given by the rules"


def _contradictions(kind: str, given: set[str], values: Mapping[str, Any]) -> Iterator[str]:
    needed = _KINDS[kind].needed
    if needed and needed not in given:
        yield f"{kind} needs {needed}="
    if "warmup_from" in given and "warmup" not in given:
        yield "warmup_from= needs warmup=, how long it lasts"
    low, high = ({**_MOMENTA, **values}[key] for key in _MOMENTA)
    if kind == "OneCycleLR" and low > high:
        yield f"base_momentum is {low:g} and max_momentum {high:g}: the base is the lower end"


_between = number("a number between 0 and 1", lambda value: 0 < value < 1)
_share = number("a share of each group's learning rate, 0 to 1", lambda value: 0 <= value <= 1)
_divisor = number("a number from 1, for the peak is highest", lambda value: value >= 1)


def _duration(text: str) -> Duration:
    digits = text.removesuffix("s").removesuffix("epoch")
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise WordError(f"expected a whole number from 1, or 3epochs, found {text!r}")
    return int(digits) if digits == text else Epochs(int(digits))


def _milestones(text: str) -> tuple[Duration, ...]:
    """Durations of one unit, each after the one before."""
    found = [_duration(part) for part in text.split(",")]
    counts = [one.count if isinstance(one, Epochs) else one for one in found]
    if counts != sorted(set(counts)):
        raise WordError(f"expected later and later ones, found {text}")
    if len(set(map(type, found))) > 1:
        raise WordError(f"expected one unit for all of them, found {text}")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of torch's schedulers: a short name, how its keys are read, and the one it needs."""

    short: str
    keys: Mapping[str, Reader]
    needed: str = ""


_KINDS: Mapping[str, _Kind] = {
    "StepLR": _Kind("step", {"step_size": _duration, "gamma": positive}, "step_size"),
    "MultiStepLR": _Kind("multistep", {"milestones": _milestones, "gamma": positive}, "milestones"),
    "ExponentialLR": _Kind("exponential", {"gamma": positive}, "gamma"),
    "CosineAnnealingLR": _Kind("cosine", {"T_max": _duration, "floor": _share}),
    "CosineAnnealingWarmRestarts": _Kind(
        "sgdr", {"T_0": _duration, "T_mult": whole(1), "floor": _share}, "T_0"
    ),
    "OneCycleLR": _Kind(
        "onecycle",
        {
            "total_steps": _duration,
            "pct_start": _between,
            "anneal_strategy": one_of("cos", "linear"),
            "cycle_momentum": truth,
            "base_momentum": _between,
            "max_momentum": _between,
            "div_factor": _divisor,
            "final_div_factor": positive,
            "three_phase": truth,
        },
    ),
    "ReduceLROnPlateau": _Kind(
        "plateau",
        {
            "mode": one_of("min", "max"),
            "factor": _between,
            "patience": whole(0),
            "threshold": from_zero,
            "threshold_mode": one_of("rel", "abs"),
            "cooldown": whole(0),
            "floor": _share,
        },
    ),
}

#: The keys that every one of them has here.
_EVERY: Mapping[str, Reader] = {
    "by": one_of("epoch", "step"),
    "warmup": _duration,
    "warmup_from": factor,
}

#: Torch's defaults for the ends between which OneCycleLR moves the momentum, the lower one first.
_MOMENTA: Mapping[str, float] = {"base_momentum": 0.85, "max_momentum": 0.95}

#: Keys of torch's that are learning rates, one number for all groups.
_ABSOLUTE = frozenset({"eta_min", "min_lr", "max_lr", "base_lr", "eps"})
