r"""Selectors: which parameters and modules a line of text means.

::

    selector := conj (',' conj)*            conj := ['!']atom ('&' ['!']atom)*
    atom     := glob | /regex/ | type:GLOB | :all :norm :bias :1d | :new :loaded :adapted

A glob is matched against the whole dotted name. ``*`` and ``?`` stay within one segment,
``**`` crosses dots, ``[34]`` is one character of a set, ``/`` may stand for the dot, and a path
covers its subtree: ``layer1`` is layer1 and all below it, never ``layer10``. ``/.../`` is
``re.search``; bare text with a character that no name or glob has (``^ $ \ ( ) | +``) is read
as a regular expression too, and its atom says so. ``type:`` asks for the class of the module
that owns the tensor, or a base of that class.

An atom is asked about a whole parameter, so a tied one counts under any of its names, and
``!lm_head`` leaves it out even where ``embed`` is the name that ``named_parameters`` shows.
Wrapper segments (``module.``, ``_orig_mod.``, ...) are looked through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from surgery.describe import describe
from surgery.errors import SelectorError, did_you_mean
from surgery.specs import ModelSpec, ModuleSpec, ParameterSpec, TensorSpec
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    from torch import nn

AtomKind = Literal["glob", "regex", "type", "status", "class"]

#: ``:word`` to what a transfer calls it.
STATUS_WORDS: Mapping[str, str] = {"new": "fresh", "loaded": "loaded", "adapted": "adapted"}

#: ``:word`` that a name, a shape and a module answer without any transfer.
CLASS_WORDS = ("all", "norm", "bias", "1d")

_REGEX_CHARACTERS = frozenset("^$\\()|+")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


@dataclass(frozen=True, slots=True)
class Atom:
    """One word of a selector, and how it was read.

    ``pattern`` is what is compared: the regular expression of a glob or regex, the glob over
    class names of a type, the transfer's word of a status, the word of a class. ``guessed``
    marks bare text that was taken for a regular expression.
    """

    text: str
    kind: AtomKind
    pattern: str
    negated: bool = False
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector as written, and its union of conjunctions of atoms."""

    text: str
    union: tuple[tuple[Atom, ...], ...]

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom in writing order."""
        return tuple(atom for conjunction in self.union for atom in conjunction)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Subject:
    """What a selector is asked about: a parameter under all its names, or a module.

    ``names`` are unwrapped. ``classes`` are the ``:words`` that hold, ``statuses`` what a
    transfer did to it.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    classes: frozenset[str]
    statuses: frozenset[str]


def select(
    model: nn.Module | ModelSpec,
    selector: str | Selector,
    *,
    status: Mapping[str, str] | None = None,
    transfer: object | None = None,
) -> tuple[str, ...]:
    """The names of the selected parameters, as ``named_parameters`` shows them, in its order.

    ``transfer`` is what :func:`surgery.transfer` returned and ``status`` the same as a mapping,
    name to ``"loaded"``, ``"adapted"`` or ``"fresh"``; ``:new``, ``:loaded`` and ``:adapted``
    need one of them. A selector that selects no parameter is a :class:`SelectorError`.

    >>> surgery.select(torchvision.models.resnet18(), "layer[34]/** & :bias & !**.bn1")
    ('layer3.0.bn2.bias', 'layer3.0.downsample.1.bias', 'layer3.1.bn2.bias',
     'layer4.0.bn2.bias', 'layer4.0.downsample.1.bias', 'layer4.1.bn2.bias')
    """
    spec = spec_of(model)
    selector = parse_selector(selector)
    status = statuses(transfer) if status is None else status
    check_answerable(selector, spec, status)
    subjects = parameter_subjects(spec, status)
    chosen = tuple(
        parameter.name
        for parameter, subject in zip(spec.parameters, subjects, strict=True)
        if matches(selector, subject)
    )
    if not chosen:
        raise SelectorError(why_nothing(selector, subjects))
    return chosen


def spec_of(model: nn.Module | ModelSpec) -> ModelSpec:
    """A spec as it is, a module described."""
    return model if isinstance(model, ModelSpec) else describe(model)


# --- text to selector ---------------------------------------------------------------------------


def parse_selector(text: str | Selector) -> Selector:
    """Read a selector; one that was read before is returned as it is.

    >>> [(atom.text, atom.kind) for atom in parse_selector("layer4 & !:bias, /fc/").atoms]
    [('layer4', 'glob'), (':bias', 'class'), ('/fc/', 'regex')]
    """
    if isinstance(text, Selector):
        return text
    union: list[tuple[Atom, ...]] = []
    conjunction: list[Atom] = []
    for piece, separator in _pieces(text):
        conjunction.append(_parse_atom(piece, text))
        if separator != "&":
            union.append(tuple(conjunction))
            conjunction = []
    return Selector(text.strip(), tuple(union))


def end_of_regex(text: str, start: int) -> int:
    """Past the ``/`` that closes the one at ``start``; the end of the text where none does."""
    closing = re.compile(r"(?:[^/\\]|\\.)*/").match(text, start + 1)
    return closing.end() if closing else len(text)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Each atom's text and the separator after it, ``""`` after the last.

    Commas and ampersands inside ``/.../`` or brackets separate nothing.
    """
    start = position = depth = 0
    while position < len(text):
        character = text[position]
        if character == "/" and not text[start:position].strip(" \t!"):
            position = end_of_regex(text, position)
            continue
        if character == "\\":
            position += 2
            continue
        if character in ",&" and depth == 0:
            yield text[start:position], character
            start = position + 1
        depth = max(0, depth + (character in _OPENING) - (character in _CLOSING))
        position += 1
    yield text[start:], ""


def _parse_atom(piece: str, whole: str) -> Atom:
    text = piece.strip()
    negated = text.startswith("!")
    text = text.removeprefix("!").lstrip()
    if not text:
        raise SelectorError(f"{whole.strip()!r} lacks a name, a glob or a :word beside , & or !")
    kind, pattern = _read_atom(text)
    guessed = kind == "regex" and not text.startswith("/")
    return Atom(text, kind, pattern, negated, guessed)


def _read_atom(text: str) -> tuple[AtomKind, str]:
    if text.startswith("/"):
        return "regex", _delimited_regex(text)
    if re.search(r"\s", text):
        raise SelectorError(f"{text!r} is more than one name: put , or & between them")
    if text.startswith(":"):
        return _read_word(text)
    if text.startswith("type:"):
        return "type", _type_glob(text)
    if _REGEX_CHARACTERS & set(text):
        return "regex", _regex(text, text)
    return "glob", _glob(text)


def _delimited_regex(text: str) -> str:
    if len(text) < 2 or not text.endswith("/"):
        raise SelectorError(f"{text!r} starts a /regular expression/ that no / ends")
    if len(text) == 2:
        raise SelectorError("'//' is an empty regular expression")
    return _regex(text[1:-1], text)


def _regex(pattern: str, text: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SelectorError(f"{text!r} is no regular expression: {error}") from None
    return pattern


def _read_word(text: str) -> tuple[AtomKind, str]:
    word = text.removeprefix(":")
    if word in CLASS_WORDS:
        return "class", word
    if word in STATUS_WORDS:
        return "status", STATUS_WORDS[word]
    if word == "fresh":
        raise SelectorError("':fresh' is written :new")
    known = [f":{known}" for known in (*CLASS_WORDS, *STATUS_WORDS)]
    hint = did_you_mean(text, known) or f"; there are {' '.join(known)}"
    raise SelectorError(f"{text!r} is unknown{hint}")


def _type_glob(text: str) -> str:
    pattern = text.removeprefix("type:")
    if not pattern:
        raise SelectorError("'type:' lacks the class, as in type:BatchNorm*")
    return pattern


def _glob(text: str) -> str:
    """The regular expression of a glob, over the whole name."""
    if ":" in text:
        raise SelectorError(f"{text!r}: only type: and the :words have a colon")
    if "{" in text or "}" in text:
        raise SelectorError(f"{text!r}: braces belong to a /regular expression/; a glob has [34]")
    segments = re.split(r"[./]", text)
    if "" in segments:
        raise SelectorError(f"{text!r} has an empty segment")
    # A path covers its subtree, so crossing dots at the end adds nothing.
    while len(segments) > 1 and segments[-1] == "**":
        segments.pop()
    *path, last = segments
    parts = [r"(?:.+\.)?" if part == "**" else _glob_segment(part, text) + r"\." for part in path]
    return rf"\A{''.join(parts)}{_glob_segment(last, text)}(?:\..+)?\Z"


_GLOB_TOKEN = re.compile(r"(?P<across>\*\*+)|(?P<within>\*)|(?P<one>\?)|\[(?P<set>[^\]]+)\]|(.)")


def _glob_segment(segment: str, text: str) -> str:
    return "".join(_glob_token(token, text) for token in _GLOB_TOKEN.finditer(segment))


def _glob_token(token: re.Match[str], text: str) -> str:
    if token["across"]:
        return ".*"
    if token["within"]:
        return "[^.]*"
    if token["one"]:
        return "[^.]"
    if token["set"]:
        return _glob_set(token["set"], text)
    if token[0] in "[]":
        raise SelectorError(f"{text!r}: [ and ] hold a set of characters, as in layer[34]")
    return re.escape(token[0])


def _glob_set(characters: str, text: str) -> str:
    excluded = characters.startswith("!")
    characters = characters.removeprefix("!").replace("[", r"\[")
    return _regex(f"[^.{characters}]" if excluded else f"[{characters}]", text)


# --- what a model answers -----------------------------------------------------------------------


def statuses(transfer: object | None) -> Mapping[str, str] | None:
    """Name to ``"loaded"``, ``"adapted"`` or ``"fresh"``, from whatever a transfer handed over.

    Either a mapping that already says so, or an object with the three tuples of names.
    """
    if transfer is None:
        return None
    if isinstance(transfer, Mapping):
        return _checked_statuses(transfer)
    outcome: Any = transfer
    return {
        name: status for status in STATUS_WORDS.values() for name in getattr(outcome, status, ())
    }


def _checked_statuses(status: Mapping[Any, Any]) -> Mapping[str, str]:
    unknown = sorted({str(value) for value in status.values()} - set(STATUS_WORDS.values()))
    if unknown:
        raise SelectorError(
            f"a parameter is loaded, adapted or fresh after a transfer, not {', '.join(unknown)}"
        )
    return status


def check_answerable(selector: Selector, spec: ModelSpec, status: Mapping[str, str] | None) -> None:
    """Raise :class:`SelectorError` for an atom that nothing at hand can answer."""
    for atom in selector.atoms:
        if atom.kind == "status" and status is None:
            raise SelectorError(
                f"{atom.text!r} asks what a transfer loaded, and there was no transfer"
            )
        if atom.kind == "type" and not spec.knows_types:
            raise SelectorError(
                f"{atom.text!r} asks for module types, and only names and shapes are known: "
                "name the architecture as well"
            )


def parameter_subjects(
    spec: ModelSpec, status: Mapping[str, str] | None = None
) -> tuple[Subject, ...]:
    """One subject for each of ``spec.parameters``, in their order."""
    ask = _Answers(spec, status)
    return tuple(ask.parameter(parameter, parameter.aliases) for parameter in spec.parameters)


def alias_subjects(
    spec: ModelSpec, parameter: ParameterSpec, status: Mapping[str, str] | None = None
) -> dict[str, Subject]:
    """A tied parameter as each of its names alone would be seen."""
    ask = _Answers(spec, status)
    return {alias: ask.parameter(parameter, (alias,)) for alias in parameter.aliases}


def module_subjects(
    spec: ModelSpec, status: Mapping[str, str] | None = None
) -> tuple[Subject, ...]:
    """One subject for each of ``spec.modules``: a module's own path and tensors together."""
    ask = _Answers(spec, status)
    return tuple(ask.module(module) for module in spec.modules)


class _Answers:
    """Names unwrapped once, for every subject of one model."""

    def __init__(self, spec: ModelSpec, status: Mapping[str, str] | None) -> None:
        aliases = (alias for parameter in spec.parameters for alias in parameter.aliases)
        tensors = (tensor.name for tensor in spec.tensors)
        self.spec = spec
        self.unwrapped = unwrap_names(dict.fromkeys((*aliases, *tensors)))
        self.paths = unwrap_names(module.path for module in spec.modules)
        # The transfer may have seen the model before it was wrapped, or after.
        self.status = dict(_unwrapped_statuses(status or {}))
        self.own: dict[str, list[TensorSpec]] = {}
        for tensor in spec.tensors:
            self.own.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)

    def parameter(self, parameter: ParameterSpec, aliases: tuple[str, ...]) -> Subject:
        owners = [owner for alias in aliases if (owner := self.spec.module_of(alias))]
        return Subject(
            names=tuple(self.unwrapped[alias] for alias in aliases),
            types=tuple(name for owner in owners for name in owner.types),
            classes=frozenset(
                _classes(aliases, (parameter.tensor,), norm=any(owner.norm for owner in owners))
            ),
            statuses=self._statuses(aliases),
        )

    def module(self, module: ModuleSpec) -> Subject:
        tensors = self.own.get(module.path, [])
        names = tuple(tensor.name for tensor in tensors)
        norm = module.norm or module.has_statistics
        return Subject(
            names=(self.paths[module.path], *(self.unwrapped[name] for name in names)),
            types=module.types,
            classes=frozenset(_classes(names, tensors, norm=norm)),
            statuses=self._statuses(names),
        )

    def _statuses(self, names: Iterable[str]) -> frozenset[str]:
        found = (self.status.get(self.unwrapped[name]) for name in names)
        return frozenset(status for status in found if status)


def _unwrapped_statuses(status: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, unwrapped in unwrap_names(status).items():
        yield unwrapped, status[name]


def _classes(names: Iterable[str], tensors: Iterable[TensorSpec], norm: bool) -> Iterator[str]:
    yield "all"
    if norm:
        yield "norm"
    if any(is_bias(name) for name in names):
        yield "bias"
    if any(len(tensor.shape) <= 1 for tensor in tensors):
        yield "1d"


def is_bias(name: str) -> bool:
    """By the last segment: ``bias`` is its first or last word.

    ``fc.bias``, ``in_proj_bias``, ``q_bias`` and an LSTM's ``bias_ih_l0`` are; a
    ``relative_position_bias_table`` is not, it is a table that attention learns like a weight.
    """
    words = name.rpartition(".")[2].split("_")
    return "bias" in (words[0], words[-1])


# --- selector x subject -------------------------------------------------------------------------


def matches(selector: Selector, subject: Subject) -> bool:
    """Whether the selector means this parameter or module."""
    return any(
        all(_holds(atom, subject) != atom.negated for atom in conjunction)
        for conjunction in selector.union
    )


def _holds(atom: Atom, subject: Subject) -> bool:
    match atom.kind:
        case "glob" | "regex":
            return any(re.search(atom.pattern, name) for name in subject.names)
        case "type":
            return any(fnmatchcase(name, atom.pattern) for name in subject.types)
        case "status":
            return atom.pattern in subject.statuses
        case "class":
            return atom.pattern in subject.classes


def why_nothing(selector: Selector, subjects: Iterable[Subject]) -> str:
    """One line: which atom matches nothing, with the nearest name, or that none is all at once."""
    subjects = tuple(subjects)
    for atom in selector.atoms:
        if not atom.negated and not any(_holds(atom, subject) for subject in subjects):
            return f"{atom.text!r} matches nothing{_nearest_to(atom, subjects)}"
    return f"{selector.text!r} matches nothing, though each of its parts alone does"


def _nearest_to(atom: Atom, subjects: tuple[Subject, ...]) -> str:
    if atom.kind == "glob":
        wanted = atom.text.replace("/", ".")
        return did_you_mean(wanted, _paths(subjects), count=2)
    if atom.kind == "type":
        types = dict.fromkeys(name for subject in subjects for name in subject.types)
        return did_you_mean(atom.pattern, types, count=2)
    return ""


def _paths(subjects: tuple[Subject, ...]) -> dict[str, None]:
    """Every name and every path above it."""
    paths: dict[str, None] = {}
    for name in (name for subject in subjects for name in subject.names):
        segments = name.split(".")
        paths.update(dict.fromkeys(".".join(segments[: end + 1]) for end in range(len(segments))))
    return paths
