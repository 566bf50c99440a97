"""Lines of a rename file that make one tensor of rows of others.

::

    enc.*.q.weight + enc.*.k.weight + enc.*.v.weight -> blocks.*.qkv.weight   # one below the other
    enc.*.q.bias + 0 + enc.*.v.bias -> blocks.*.qkv.bias      # 0: zeros for the rows that are left
    blocks.*.qkv.weight[1/3] -> enc.*.q.weight      # the first of three equal parts of the rows
    kv.weight[0:64] -> k.weight                     # rows 0 to 63
    h.*.c_attn.weight^T[1/3] -> enc.*.q.weight      # a source stored (in, out)
    a.weight + b.weight -> c_attn.weight^T          # a target stored (in, out)
    classifier.6.weight[:] -> head.fc.weight        # all rows, in the target's shape
    wte.weight[:] -> lm_head.weight                 # or as it is

A left side is such an expression where names are joined by a ``+`` between spaces, where a name
ends in ``^T``, ``[:]``, ``[a/b]`` or ``[a:b]``, or where the right side ends in ``^T``; as a
regular expression none of these could mean a part of a name. Names are those of whole tensors,
as they stand in the source; each ``*`` is (a part of) one segment, and the n-th of every name
stands for the same text. Wrappers (``module.`` ...) are looked through.

A recipe is read from its target: every target tensor that the right side names is given the
sources that the left side then names. A target none of whose sources is there is not meant, as a
deeper network has layers that the source has not; one of which some are missing is an error.
``[:]`` keeps the rows and what each holds; it never reads (in, out) as (out, in).

A source may feed any number of recipes. Names do not bring it together with a target of its name
as well, unless a plain line says so too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from surgery.errors import Problem, did_you_mean
from surgery.matching.operations import Operation, Piece, Shape, rows
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

_NAME = r"[\w.\-*]+"
_TERM = re.compile(
    rf"(?P<name>{_NAME})(?P<turned>\^T)?"
    r"(?:\[(?P<rows>:|[0-9]{1,18}/[0-9]{1,18}|[0-9]{1,18}:[0-9]{1,18})\])?\Z"
)
_PLUS = re.compile(r"\s\+\s")
_TURNED = "^T"


@dataclass(frozen=True, slots=True)
class Term:
    """Rows of the sources that a glob names; an empty name stands for zeros.

    ``rows`` is ``":"`` for all of them, ``"1/3"`` for a part, ``"0:64"`` for some.
    """

    name: str
    transposed: bool = False
    rows: str = ":"

    def __str__(self) -> str:
        return (self.name + _TURNED * self.transposed + f"[{self.rows}]") if self.name else "0"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One line: its terms from top to bottom, and the target tensors that it makes.

    ``transposed`` says that the target is stored (in, out).
    """

    line: int
    terms: tuple[Term, ...]
    target: str
    transposed: bool = False

    def __str__(self) -> str:
        return f"{' + '.join(map(str, self.terms))} -> {self.target}{_TURNED * self.transposed}"


def is_recipe(left: str, right: str) -> bool:
    """Whether a line makes tensors of rows of others, rather than renaming."""
    term = _TERM.match(left)
    alone = term is not None and bool(term["turned"] or term["rows"])
    return alone or right.endswith(_TURNED) or _PLUS.search(left) is not None


def read_recipe(line: int, left: str, right: str) -> Recipe | Problem:
    """The recipe, or why it cannot be read."""
    transposed = right.endswith(_TURNED)
    target = right.removesuffix(_TURNED)
    if not re.fullmatch(_NAME, target):
        return Problem(line, f"rows make one target tensor; expected its name, found {right!r}")
    terms = []
    for text in _PLUS.split(left):
        term = _read_term(text.strip())
        if isinstance(term, str):
            return Problem(line, term)
        terms.append(term)
    if not any(term.name for term in terms):
        return Problem(line, f"{left!r} names no source; leave out what is to stay fresh")
    for term in terms:
        if term.name and term.name.count("*") != target.count("*"):
            return Problem(
                line,
                f"{term.name!r} has {term.name.count('*')} '*' and the target {target!r} "
                f"{target.count('*')}: each * stands for the same text in all of them",
            )
    return Recipe(line, tuple(terms), target, transposed)


def _read_term(text: str) -> Term | str:
    if text == "0":
        return Term("")
    match = _TERM.match(text)
    if match is None:
        return (
            f"expected names of tensors joined by ' + ', found {text!r}; a name may end in ^T "
            "(stored in, out), and in [1/3] (a part of its rows), [0:64] (rows) or [:] (all)"
        )
    term = Term(match["name"], bool(match["turned"]), match["rows"] or ":")
    return _unreadable_rows(term) or term


def _unreadable_rows(term: Term) -> str:
    if "/" in term.rows:
        part, parts = map(int, term.rows.split("/"))
        if not 1 <= part <= parts:
            return f"{term}: parts count from 1, and there is no part {part} of {parts}"
    elif term.rows != ":":
        start, stop = map(int, term.rows.split(":"))
        if start >= stop:
            return f"{term}: rows {start} to {stop} are none; rows count from 0, the last not taken"
    return ""


@dataclass(frozen=True, slots=True)
class Made:
    """A target tensor that a line makes. Where ``operation`` is None, it is ``source`` as it is."""

    line: int
    target: TensorSpec
    sources: tuple[TensorSpec, ...]
    operation: Operation | None


def resolve(
    recipes: Sequence[Recipe],
    sources: Iterable[TensorSpec],
    targets: Iterable[TensorSpec],
) -> tuple[dict[str, Made], list[Problem]]:
    """What the recipes make, by target name, and every problem: one for each line."""
    made: dict[str, Made] = {}
    problems: list[Problem] = []
    if not recipes:
        return made, problems
    ours, theirs = _Named(sources), _Named(targets)
    for recipe in recipes:
        found = _made_by(recipe, ours, theirs)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        for one in found:
            other = made.setdefault(one.target.name, one)
            if other is not one:
                why = f"line {other.line} makes {one.target.name} already; remove one of them"
                problems.append(Problem(recipe.line, why))
                break
    return made, problems


class _Missing(Exception):
    """Sources of one target that are not there, all of them or some."""

    def __init__(self, names: Sequence[str], *, all_of_them: bool) -> None:
        super().__init__(*names)
        self.names, self.all_of_them = names, all_of_them


class _Misfit(Exception):
    """Sources whose rows do not fill the target."""


def _made_by(recipe: Recipe, ours: _Named, theirs: _Named) -> list[Made] | Problem:
    meant = theirs.matching(recipe.target)
    if not meant:
        near = did_you_mean(recipe.target, theirs.names)
        what = "no target tensor is called" if "*" not in recipe.target else "no target matches"
        return Problem(recipe.line, f"{what} {recipe.target!r}{near}")
    made, absent = [], []
    for target, texts in meant:
        try:
            made.append(_make(recipe, target, texts, ours))
        except _Missing as missing:
            if not missing.all_of_them:
                return Problem(recipe.line, f"for {target.name}: {_no_source(missing, ours)}")
            absent.append(missing)
        except _Misfit as misfit:
            return Problem(recipe.line, str(misfit))
    return made or Problem(recipe.line, _no_source(absent[0], ours))


def _no_source(missing: _Missing, ours: _Named) -> str:
    name = missing.names[0]
    return f"no source tensor is called {name!r}{did_you_mean(name, ours.names)}"


def _make(recipe: Recipe, target: TensorSpec, texts: Sequence[str], ours: _Named) -> Made:
    names = [_filled(term.name, texts) for term in recipe.terms]
    specs = [ours.get(name) if name else None for name in names]
    missing = [name for name, spec in zip(names, specs, strict=True) if name and spec is None]
    if missing:
        raise _Missing(missing, all_of_them=not any(specs))
    shape = tuple(reversed(target.shape)) if recipe.transposed else target.shape
    pieces = list(_pieces(recipe, specs, target, shape))
    if not _fills(pieces, shape):
        raise _Misfit(
            f"{target.name} is {_text(target.shape)}{_turned(recipe.transposed)}, and its rows "
            f"come as {' + '.join(_piece_text(piece, shape) for piece in pieces)}"
        )
    operation = _plainest(Operation(tuple(pieces), recipe.transposed))
    copied = operation.name(target.shape) == "copy"
    return Made(recipe.line, target, operation.sources, None if copied else operation)


def _filled(glob: str, texts: Sequence[str]) -> str:
    first, *parts = glob.split("*")
    return first + "".join(text + part for text, part in zip(texts, parts, strict=False))


def _pieces(
    recipe: Recipe, specs: Sequence[TensorSpec | None], target: TensorSpec, shape: Shape
) -> Iterator[Piece]:
    if recipe.transposed and len(target.shape) != 2:
        raise _Misfit(f"only a matrix is stored (in, out): {target.name} is {_text(target.shape)}")
    taken = [_taken(term, spec) for term, spec in zip(recipe.terms, specs, strict=True) if spec]
    zeros = recipe.terms.count(Term(""))
    left = rows(shape, False) - sum(piece.rows for piece in taken)
    if zeros and (left <= 0 or left % zeros):
        found = f"its sources fill {rows(shape, False) - left} of its {rows(shape, False)} rows"
        raise _Misfit(f"{target.name}: {found}, and {zeros} '0' must share what is left equally")
    of_sources = iter(taken)
    for term in recipe.terms:
        yield next(of_sources) if term.name else Piece(None, 0, left // zeros)


def _taken(term: Term, source: TensorSpec) -> Piece:
    if term.transposed and len(source.shape) != 2:
        raise _Misfit(f"only a matrix is stored (in, out): {source.name} is {_text(source.shape)}")
    count = rows(source.shape, term.transposed)
    if term.rows == ":":
        return Piece(source, 0, count, term.transposed)
    if "/" in term.rows:
        part, parts = map(int, term.rows.split("/"))
        if count % parts:
            raise _Misfit(f"the {count} rows of {source.name} are not {parts} equal parts")
        return Piece(source, (part - 1) * count // parts, part * count // parts, term.transposed)
    start, stop = map(int, term.rows.split(":"))
    if stop > count:
        raise _Misfit(f"{source.name} has {count} rows, and no rows {start} to {stop}")
    return Piece(source, start, stop, term.transposed)


def _fills(pieces: Sequence[Piece], shape: Shape) -> bool:
    """Whether rows and what each holds agree, or the shapes but for ones."""
    if len(pieces) == 1 and (source := pieces[0].source) and pieces[0].whole:
        whole = tuple(reversed(source.shape)) if pieces[0].transposed else source.shape
        if _squeezed(whole) == _squeezed(shape):
            return True
    width = math.prod(shape[1:])
    found = [piece.shape(shape) for piece in pieces]
    return {row for _, row in found} == {width} and sum(n for n, _ in found) == rows(shape, False)


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _plainest(operation: Operation) -> Operation:
    """(in, out) to (in, out) turns nothing."""
    (piece, *more) = operation.pieces
    if not more and operation.transposed and piece.transposed and piece.whole and piece.source:
        return Operation((Piece(piece.source, 0, rows(piece.source.shape, False)),))
    return operation


def _text(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _turned(transposed: bool) -> str:
    return " stored (in, out)" if transposed else ""


def _piece_text(piece: Piece, shape: Shape) -> str:
    if piece.source is None:
        return f"{piece.rows} of zeros"
    return f"{_text(piece.shape(shape))} of {piece.source.name}{_turned(piece.transposed)}"


class _Named:
    """Tensors by their own names, by those below wrappers, and by globs."""

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self.names = {spec.name: spec for spec in specs}
        self._clean = {clean: self.names[name] for name, clean in unwrap_names(self.names).items()}
        self._by_segment: dict[tuple[int, int, str], list[str]] = {}

    def get(self, name: str) -> TensorSpec | None:
        return self.names.get(name) or self._clean.get(name)

    def matching(self, glob: str) -> list[tuple[TensorSpec, tuple[str, ...]]]:
        """The tensors that a glob names, and what each ``*`` stands for."""
        if "*" not in glob:
            spec = self.get(glob)
            return [(spec, ())] if spec else []
        regex = re.compile(r"([^.]+)".join(map(re.escape, glob.split("*"))))
        return [
            (self._clean[name], match.groups())
            for name in self._candidates(glob)
            if (match := regex.fullmatch(name))
        ]

    def _candidates(self, glob: str) -> Iterable[str]:
        """Names with the rarest of the glob's whole segments: there may be a line for each of
        10,000 layers.
        """
        if not self._by_segment:
            for name in self._clean:
                segments = name.split(".")
                for at, segment in enumerate(segments):
                    self._by_segment.setdefault((len(segments), at, segment), []).append(name)
        parts = glob.split(".")
        whole = [(len(parts), at, part) for at, part in enumerate(parts) if "*" not in part]
        if not whole:
            return self._clean
        return min((self._by_segment.get(key, []) for key in whole), key=len)
