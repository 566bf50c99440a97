"""Whether a value is of the kind that an optimizer's key takes."""

from __future__ import annotations

from inspect import Parameter
from numbers import Real
from typing import Any

from surgery.tuning.optimizer_names import OptimizerChoice


def misfit(choice: OptimizerChoice, key: str, value: object, defaults: Any) -> str | None:
    """``"expected a number, found 'small'"`` where the value is of another kind than the key.

    Told by the constructor's default, and by ``defaults`` (see
    :meth:`OptimizerChoice.defaults`) where it has none. Torch itself takes any text for true.
    A default of None says nothing but where the annotation speaks of a boolean.
    """
    expected = _expected(choice.signature.get(key), defaults.get(key), value)
    return f"expected {expected}, found {value!r}" if expected else None


def _expected(declared: Parameter | None, default: object, value: object) -> str | None:
    """What would have fitted; None where the value does."""
    if declared is not None and declared.default is not Parameter.empty:
        if declared.default is not None:
            default = declared.default
        elif "bool" in str(declared.annotation):
            fits = value is None or isinstance(value, bool)
            return None if fits else "true, false or none"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if is_number(default):
        return None if is_number(value) else "a number"
    if isinstance(default, tuple) and any(map(is_number, default)):
        return None if _same_form(default, value) else f"{len(default)} numbers"
    return None


def _same_form(default: tuple[object, ...], value: object) -> bool:
    """As many numbers; where the default has none, a number or None (Adafactor's ``eps``)."""
    return (
        isinstance(value, tuple)
        and len(value) == len(default)
        and all(
            is_number(one) or (one is None and not is_number(usual))
            for one, usual in zip(value, default, strict=True)
        )
    )


def is_number(value: object) -> bool:
    """Booleans are numbers to Python, and to nobody else."""
    return isinstance(value, Real) and not isinstance(value, bool)
