"""A recipe as the left side of a mapping line, both ways.

::

    q.weight + k.weight + v.weight      # rows, one tensor's below the other's
    q.bias + 0 + v.bias                 # 0: zeros for the rows that are left
    qkv.weight[1/3]                     # the first of three equal parts of the rows
    kv.weight[0:64]                     # rows 0 to 63
    w[0:64, :, 3:4]                     # along several axes
    c_attn.weight^T[1/3]                # a source stored (in, out)
    classifier.6.weight[:]              # all of it, in the target's shape
    stack(a, b)                         # along a new first axis
    concat(a, b; 1)                     # along another axis
    permute(a, 2, 3, 1, 0)    reshape(a, 8x3x64)    slice(a + b, 0:64, :)    zeros(4x6)
    reorder(a, 8x3x64, 1, 0, 2)         # rows seen as 8x3x64, permuted, made rows again
    scale(a, 0.5)    add(a, b)    product(a, b)    low_rank(up, down, 2.0)    # 2.0 * up @ down
    strided(a, 5, 2x9 3x1, 4x27)        # from element 5, each axis by its sizes and strides

What a row holds may be shaped otherwise than in the target, and axes of one element may come and
go; inside ``( )`` shapes are exact. :func:`read` gives an :class:`Expression`, whose names may
have ``*``; :func:`recipe_of` makes it a recipe of sources, and the way back is
:func:`~surgery.matching.recipes.writing.text_of`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import did_you_mean
from surgery.matching.recipes.arithmetic import COMPUTED
from surgery.matching.recipes.recipe import (
    Recipe,
    View,
    Zeros,
    join,
    join_rows,
    row_count,
    stack,
    strided,
)
from surgery.matching.recipes.strides import Shape
from surgery.specs import TensorSpec
from surgery.wording import shape_text

#: A name, which may have ``*`` for parts of segments.
NAME = r"[\w.\-*]+"
TURNED = "^T"
_ITEM = r"(?:[0-9]{1,18}[:/][0-9]{1,18}|[0-9]{1,18}|:)"
_TERM = re.compile(
    rf"(?P<name>{NAME})(?P<turned>\^T)?(?:\[(?P<items>\s*{_ITEM}(?:\s*,\s*{_ITEM})*\s*)\])?"
)
#: What stands before the bracket that ends a function; ``()`` is the shape of a single number.
_ARGUMENTS = re.compile(r"((?:[^()]|\(\))*+)\)")
#: Functions, and how many expressions each is of; None for any number, which a ``;`` ends.
_FUNCTIONS: Mapping[str, int | None] = {
    "concat": None,
    "permute": 1,
    "reorder": 1,
    "reshape": 1,
    "slice": 1,
    "stack": None,
    "strided": 1,
    "zeros": 0,
    **{function: count for function, (_, count, _) in COMPUTED.items()},
}
_CALL = re.compile(rf"({'|'.join(_FUNCTIONS)})\(")
_PLUS = re.compile(r"\s\+\s")
#: What looks like a function: no name has a bracket, and no regular expression of one a comma.
_LIKE_A_CALL = re.compile(r"(?P<function>[A-Za-z]\w*)\((?P<arguments>.*)\)")
_COUNTS_AND_SETS = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Expression:
    """A name (``function`` is empty, ``arguments`` are name, ``^T`` and slices), rows of several
    (``"+"``), zeros for the rows that are left (``"0"``), or a function with its arguments.
    """

    function: str
    operands: tuple[Expression, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names in it, in order."""
        if not self.function:
            return self.arguments[:1]
        return tuple(name for operand in self.operands for name in operand.names)


def is_expression(text: str) -> bool:
    """Whether a left side makes a tensor of others, rather than being a part of a name."""
    term = _TERM.fullmatch(text)
    sliced = term is not None and (term["turned"] or re.search("[:/]", term["items"] or ""))
    call = _LIKE_A_CALL.fullmatch(text)
    called = call and "," in _COUNTS_AND_SETS.sub("", call["arguments"])
    return bool(sliced or called or _CALL.match(text) or _PLUS.search(text))


def misspelt_function(text: str) -> str:
    """``; did you mean scale?`` for what looks like a call of an unknown function."""
    call = _LIKE_A_CALL.fullmatch(text)
    return did_you_mean(call["function"], _FUNCTIONS) if call else ""


def read(text: str) -> Expression:
    """Read a left side; raises ValueError with what was expected and what was found."""
    reader = _Reader(text)
    found = reader.rows()
    if reader.left:
        raise ValueError(reader.expected("' + ' between names of tensors, or the end"))
    if not found.names:
        raise ValueError(f"{text!r} names no source; leave out what is to stay fresh")
    return found


class _Reader:
    """Reads from left to right; ``left`` is what comes next."""

    def __init__(self, text: str) -> None:
        self.left, self._depth = text.strip(), 0

    def expected(self, what: str) -> str:
        return f"expected {what}, found {self.left[:60]!r}"

    def rows(self) -> Expression:
        terms = [self._term()]
        while plus := _PLUS.match(self.left):
            self.left = self.left[plus.end() :].lstrip()
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else Expression("+", tuple(terms))

    def _term(self) -> Expression:
        if call := _CALL.match(self.left):
            return self._call(call)
        term = _TERM.match(self.left)
        if term is None:
            raise ValueError(
                self.expected(
                    "names of tensors joined by ' + ' (a name may end in ^T, stored in, out, and "
                    "in [1/3], [0:64] or [:]) or a function of them"
                )
            )
        self.left = self.left[term.end() :]
        if self.left.startswith("("):
            near = did_you_mean(term[0], _FUNCTIONS) or f"; there are {', '.join(_FUNCTIONS)}"
            raise ValueError(f"no recipe {term[0]!r}{near}")
        if term[0] == "0":
            return Expression("0")
        items = tuple(map(str.strip, term["items"].split(","))) if term["items"] else ()
        _check(term[0], items)
        return Expression("", (), (term["name"], term["turned"] or "", *items))

    def _call(self, call: re.Match[str]) -> Expression:
        if self._depth == _DEEPEST:
            raise ValueError(f"functions are nested more than {_DEEPEST} deep")
        self._depth += 1
        self.left = self.left[call.end() :].lstrip()
        count = _FUNCTIONS[call[1]]
        operands: list[Expression] = []
        while count is None or len(operands) < count:
            operands.append(self.rows())
            if not self.left.startswith(","):
                break
            self.left = self.left[1:].lstrip()
        if self.left.startswith(";"):
            self.left = self.left[1:]
        closed = _ARGUMENTS.match(self.left)
        if not closed:
            raise ValueError(f"expected ')' after {call[1]}( {self.left[:60]!r}")
        arguments, self.left = closed[1], self.left[closed.end() :]
        self._depth -= 1
        found = tuple(part.strip() for part in arguments.split(",")) if arguments.strip() else ()
        return Expression(call[1], tuple(operands), found)


def recipe_of(expression: Expression, source: Callable[[str], TensorSpec], shape: Shape) -> Recipe:
    """The recipe for a target of ``shape``; ``source`` gives a tensor by a name that it reads.

    Raises ValueError where something does not fit.
    """
    terms = expression.operands if expression.function == "+" else (expression,)
    made = [None if term.function == "0" else _value(term, source) for term in terms]
    height, zeros = row_count(shape), made.count(None)
    left = height - sum(row_count(part.shape) for part in made if part)
    if zeros and (left <= 0 or left % zeros):
        found = f"its sources fill {height - left} of its {height} rows"
        raise ValueError(f"{found}, and {zeros} '0' must share what is left equally")
    parts = [part or Zeros((left // zeros, *shape[1:])) for part in made]
    try:
        return join_rows(parts, shape)
    except ValueError:
        rows = " + ".join(map(_row_text, terms, parts))
        raise ValueError(f"its rows come as {rows}") from None


def _row_text(term: Expression, part: Recipe) -> str:
    count = row_count(part.shape)
    if isinstance(part, Zeros):
        return f"{count} of zeros"
    rows = shape_text((count, part.numel // max(count, 1)))
    turned = " stored (in, out)" if term.arguments[1:2] == (TURNED,) else ""
    return f"{rows} of {', '.join(spec.name for spec in part.sources)}{turned}"


def _value(expression: Expression, source: Callable[[str], TensorSpec]) -> Recipe:
    """The recipe with a shape of its own."""
    if not expression.function:
        name, turned, *items = expression.arguments
        return _named(source(name), bool(turned), items)
    if expression.function == "0":
        raise ValueError("'0' is for rows of the whole line; write zeros(4x6) within a function")
    function, arguments = expression.function, expression.arguments
    parts = tuple(_value(operand, source) for operand in expression.operands)
    if _FUNCTIONS.get(function) not in (None, len(parts)):
        raise ValueError(f"{function}(...) has other arguments than {len(parts)} tensors")
    return _called(function, parts, arguments)


def _named(spec: TensorSpec, turned: bool, items: Sequence[str]) -> Recipe:
    whole: Recipe = View.of(spec)
    if turned and len(spec.shape) != 2:
        shape = shape_text(spec.shape)
        raise ValueError(f"only a matrix is stored (in, out): {spec.name} is {shape}")
    whole = whole.permute((1, 0)) if turned else whole
    return _sliced(whole, items, spec.name)


def _sliced(whole: Recipe, items: Sequence[str], name: str) -> Recipe:
    """Slices of the first axes; an axis of which an index is taken is left out."""
    if not items or [*items] == [":"]:
        return whole
    shape = whole.shape or (1,)
    if len(items) > len(shape):
        raise ValueError(f"{name} has {len(shape)} axes, and {len(items)} are sliced")
    made, kept = whole.reshape(shape), []
    for axis, (item, size) in enumerate(zip(items, shape, strict=False)):
        start, stop = _bounds(item, size, name)
        made = made.slice(axis, start, stop)
        kept += [] if item.isdecimal() else [stop - start]
    return made.reshape((*kept, *shape[len(items) :]))


def _bounds(item: str, size: int, name: str) -> tuple[int, int]:
    if item == ":":
        return 0, size
    if item.isdecimal():
        start, stop = int(item), int(item) + 1
    elif "/" in item:
        part, parts = map(int, item.split("/"))
        if size % parts:
            raise ValueError(f"the {size} rows of {name} are not {parts} equal parts")
        start, stop = (part - 1) * size // parts, part * size // parts
    else:
        start, stop = map(int, item.split(":"))
    if stop > size:
        raise ValueError(f"{name} has {size} rows, and no rows {start} to {stop}")
    return start, stop


def _check(name: str, items: Sequence[str]) -> None:
    """Refuse slices that can fit nothing."""
    for item in items:
        if not re.fullmatch(_ITEM, item):
            raise ValueError(f"{name}: expected a slice such as 0:64, 1/3 or :, found {item!r}")
        first, sign, last = item.replace("/", ":").partition(":")
        if "/" in item and not 1 <= int(first) <= int(last):
            why = f"parts count from 1, and there is no part {first} of {last}"
            raise ValueError(f"{name}: {why}")
        if sign and item != ":" and "/" not in item and int(first) >= int(last):
            why = f"rows {first} to {last} are none; rows count from 0, the last not taken"
            raise ValueError(f"{name}: {why}")


def _called(function: str, parts: tuple[Recipe, ...], arguments: tuple[str, ...]) -> Recipe:
    match function, arguments:
        case "+", ():
            return join(parts)
        case "stack", ():
            return stack(parts)
        case "concat", (axis,):
            return join(parts, int(axis))
        case "permute", order:
            return parts[0].permute([*map(int, order)])
        case "reshape", (shape,):
            return parts[0].reshape(_shape(shape))
        case "reorder", (shape, *order):
            return parts[0].reorder(_shape(shape), [*map(int, order)])
        case "slice", items:
            _check("slice", items)
            return _sliced(parts[0], items, "what is sliced")
        case "zeros", (shape,):
            return Zeros(_shape(shape))
        case _, numbers if function in COMPUTED:
            made, _, count = COMPUTED[function]
            if len(numbers) == count:
                return made(parts, *map(float, numbers))
        case "strided", (offset, *axes):
            factors = [[_shape(factor) for factor in axis.split()] for axis in axes]
            base = parts[0].sources[0] if parts[0].is_copy else parts[0]
            return strided(base, factors, int(offset))
    raise ValueError(f"{function}(...) has other arguments than {', '.join(arguments)!r}")


def _shape(text: str) -> Shape:
    return tuple(map(int, text.split("x"))) if text != "()" else ()
