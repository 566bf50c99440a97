"""What somebody else's code raises, as one line of ours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

from surgery.errors import ArchitectureError, SurgeryError, did_you_mean

#: What Python says of a call whose arguments do not fit: the function, and the keyword if it is
#: one too many.
_MISFIT = re.compile(r"(\S+)\(\) (?:got an unexpected keyword argument '(\w+)'|missing|takes|got)")


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Whatever code raises becomes one line that names ``what`` and the place it was raised at;
    where arguments do not fit, also what the function takes.
    """
    try:
        yield
    except ArchitectureError:
        raise
    except SurgeryError as error:
        raise ArchitectureError(f"{what}: {error.message}", error.details) from error
    except (Exception, SystemExit) as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        file = Path(trace.tb_frame.f_code.co_filename).name if trace else ""
        place = f" ({file}:{trace.tb_lineno})" if trace else ""
        first_line = next(iter(str(error).splitlines()), "")
        fitting = _what_fits(first_line, trace.tb_frame) if trace else ""
        raise ArchitectureError(
            f"{what} raised {type(error).__name__}: {first_line}{place}{fitting}"
        ) from error


def _what_fits(message: str, caller: FrameType) -> str:
    """What the function that a TypeError names does take: it was never entered, so it is looked
    for among the names of whoever called it.
    """
    if (misfit := _MISFIT.match(message)) is None:
        return ""
    called, keyword = misfit.groups()
    here = caller.f_locals
    for known in (*here.values(), *type(here.get("self")).__mro__, *caller.f_globals.values()):
        function, is_bound = _function_of(known)
        if function and function.__qualname__ == called:
            parameters = [*inspect.signature(function).parameters.values()][is_bound:]
            bare = inspect.Signature([each.replace(annotation=each.empty) for each in parameters])
            near = did_you_mean(keyword, bare.parameters) if keyword else ""
            return f"; {called.removesuffix('.__init__')} takes {bare}{near}"
    return ""


def _function_of(value: Any) -> tuple[FunctionType | None, bool]:
    """What runs when the value is called, if Python's code does; and whether it gets a ``self``."""
    value = value.func if isinstance(value, partial) else value
    if isinstance(value, FunctionType):
        return value, False
    kind, method = (value, "__init__") if isinstance(value, type) else (type(value), "__call__")
    found = getattr(kind, method, None)
    return found if isinstance(found, FunctionType) else None, True
