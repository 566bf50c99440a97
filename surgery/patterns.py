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

from surgery.errors import SelectorError, SurgeryError, did_you_mean
from surgery.networks.describe import describe
from surgery.record import read_record
from surgery.specs import ModelSpec, ModuleSpec, ParameterSpec, TensorSpec
from surgery.wrappers import unwrap_name, unwrap_names

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

    ``transfer`` is what :func:`surgery.transfer` returned, or anything else that
    :func:`statuses` reads; ``status`` is name to ``"loaded"``, ``"adapted"`` or ``"fresh"``.
    ``:new``, ``:loaded`` and ``:adapted`` need one of them. A selector that selects no
    parameter is a :class:`SelectorError`, and so is a name, glob or type in it that no
    parameter has, behind a ``!`` too: ``layer1 & !bnn1`` is a slip.

    >>> surgery.select(torchvision.models.resnet18(), "layer[34]/** & :bias & !**.bn1")
    ('layer3.0.bn2.bias', 'layer3.0.downsample.1.bias', 'layer3.1.bn2.bias',
     'layer4.0.bn2.bias', 'layer4.0.downsample.1.bias', 'layer4.1.bn2.bias')
    """
    spec = spec_of(model)
    selector = parse_selector(selector)
    status = statuses(transfer, spec) if status is None else status
    check_answerable(selector, spec, status)
    subjects = parameter_subjects(spec, status)
    unmet = tuple(unmet_atoms(selector, subjects))
    if unmet:
        raise SelectorError(unmet[0], unmet[1:])
    chosen = tuple(
        parameter.name
        for parameter, subject in zip(spec.parameters, subjects, strict=True)
        if matches(selector, subject)
    )
    if not chosen:
        raise SelectorError(why_nothing(selector))
    return chosen


def spec_of(model: nn.Module | ModelSpec) -> ModelSpec:
    """A spec as it is, a module described.

    Raises :class:`~surgery.errors.SurgeryError` for lazy parameters, which have no shape yet.
    """
    if isinstance(model, ModelSpec):
        return model
    from torch.nn.parameter import is_lazy

    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise SurgeryError(
            f"{lazy[0]} is lazy and has no shape yet: run one batch through the model first"
        )
    return describe(model)


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
    if text.startswith("!"):
        raise SelectorError(f"{piece.strip()!r} has more than one !: one leaves out, two cancel")
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


def statuses(transfer: object | None, spec: ModelSpec) -> Mapping[str, str] | None:
    """Name to ``"loaded"``, ``"adapted"`` or ``"fresh"``, from whatever a transfer handed over.

    That is what :func:`surgery.transfer` or :func:`surgery.replace_head` returned, a mapping
    that already says so, an opened file that a transfer wrote, or several of these in a list,
    of which later ones overrule. A head's replacement says that its layers are fresh
    and nothing of the rest. A transfer knows the shapes that it loaded: what has another shape
    in ``spec``, or is not among them, came after it and is fresh.

    Anything else is a :class:`SelectorError`.
    """
    if transfer is None:
        return None
    told: dict[str, str] = {}
    complete = False
    for part in transfer if isinstance(transfer, (list, tuple)) else (transfer,):
        account = _read_account(part, spec)
        told.update(_unwrapped_statuses(account.status))
        complete = complete or account.complete
    if complete:
        told.update(_untold(told, spec))
    return told


@dataclass(frozen=True, slots=True)
class _Account:
    """What one thing says of a transfer; ``complete`` where what it does not name is fresh."""

    status: Mapping[str, str]
    complete: bool = False


def _read_account(told: Any, spec: ModelSpec) -> _Account:
    if isinstance(told, Mapping):
        return _Account(_checked_statuses(told))
    if all(hasattr(told, status) for status in STATUS_WORDS.values()):
        return _outcome_account(told, spec)
    if _is_swap(told):
        return _Account(_fresh_below([layer.path for layer in told.layers], spec))
    if hasattr(told, "specs") and hasattr(told, "metadata"):
        return _file_account(told, spec)
    raise SelectorError(
        "transfer takes what surgery.transfer or surgery.replace_head returned, a mapping of "
        "names to loaded, adapted or fresh, a file that a transfer wrote (opened with "
        f"surgery.open_checkpoint), or several of these in a list; found {_shortly(told)}"
    )


def _is_swap(told: Any) -> bool:
    layers = getattr(told, "layers", None)
    return isinstance(layers, tuple) and all(hasattr(layer, "path") for layer in layers)


def _shortly(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _checked_statuses(status: Mapping[Any, Any]) -> Mapping[str, str]:
    unknown = sorted({str(value) for value in status.values()} - set(STATUS_WORDS.values()))
    if unknown:
        raise SelectorError(
            f"a parameter is loaded, adapted or fresh after a transfer, not {', '.join(unknown)}"
        )
    return status


def _outcome_account(outcome: Any, spec: ModelSpec) -> _Account:
    status = {name: word for word in STATUS_WORDS.values() for name in getattr(outcome, word)}
    steps = getattr(getattr(outcome, "plan", None), "steps", None)
    if steps is None:
        return _Account(status)
    return _Account(_still_there(status, (step.target for step in steps), spec), complete=True)


def _file_account(file: Any, spec: ModelSpec) -> _Account:
    record = read_record(file.metadata, file.specs)
    if record is None:
        raise SelectorError(
            f"{getattr(file, 'path', 'the file')} has no record of a transfer: only a file that "
            "a transfer wrote has one"
        )
    return _Account(_still_there(record.status, record.model.tensors, spec), complete=True)


def _still_there(
    status: Mapping[str, str], targets: Iterable[TensorSpec], spec: ModelSpec
) -> dict[str, str]:
    """The status, ``"fresh"`` for a tensor that has another shape now: it was replaced."""
    shapes = {target.name: target.shape for target in targets}
    before = {clean: shapes[name] for name, clean in unwrap_names(shapes).items()}
    now = dict(_unwrapped_shapes(spec))
    return {
        clean: "fresh" if now.get(clean, before.get(clean)) != before.get(clean) else status[name]
        for name, clean in unwrap_names(status).items()
    }


def _unwrapped_shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    shapes = {
        alias: parameter.tensor.shape
        for parameter in spec.parameters
        for alias in parameter.aliases
    }
    for name, clean in unwrap_names(shapes).items():
        yield clean, shapes[name]


def _fresh_below(paths: Iterable[str], spec: ModelSpec) -> dict[str, str]:
    """Every name of the parameters that one of the paths covers."""
    paths = tuple(paths)
    clean = unwrap_names(alias for p in spec.parameters for alias in p.aliases)
    return {
        clean[alias]: "fresh"
        for parameter in spec.parameters
        if any(_is_below(clean[alias], path) for alias in parameter.aliases for path in paths)
        for alias in parameter.aliases
    }


def _is_below(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _untold(told: Mapping[str, str], spec: ModelSpec) -> dict[str, str]:
    """The parameters that nothing names under any of their names, as fresh."""
    clean = unwrap_names(alias for p in spec.parameters for alias in p.aliases)
    return {
        clean[parameter.name]: "fresh"
        for parameter in spec.parameters
        if not any(clean[alias] in told for alias in parameter.aliases)
    }


def check_answerable(selector: Selector, spec: ModelSpec, status: Mapping[str, str] | None) -> None:
    """Raise :class:`SelectorError` for an atom that nothing at hand can answer."""
    for atom in selector.atoms:
        if atom.kind == "status" and status is None:
            raise SelectorError(
                f"{atom.text!r} asks what a transfer loaded, and there was no transfer: give one "
                "by transfer=, or by --from"
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
        self.shared = _shared_paths(spec)
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
            names=(
                self.paths[module.path],
                *(self.unwrapped[name] for name in names),
                *self.shared.get(module.path, ()),
            ),
            types=module.types,
            classes=frozenset(_classes(names, tensors, norm=norm)),
            statuses=self._statuses(names),
        )

    def _statuses(self, names: Iterable[str]) -> frozenset[str]:
        found = (self.status.get(self.unwrapped[name]) for name in names)
        return frozenset(status for status in found if status)


def _shared_paths(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """The other paths of each module that has several: those under which its buffers go too."""
    paths = {
        names[0].rpartition(".")[0]: [name.rpartition(".")[0] for name in names[1:]]
        for names in spec.shared_buffers
    }
    return {first: tuple(map(unwrap_name, others)) for first, others in paths.items()}


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


def unmet_atoms(selector: Selector, subjects: Iterable[Subject]) -> Iterator[str]:
    """One line for each name, glob, regex or type that no subject has, with the nearest name.

    Negated ones too: ``!fcc`` means everything. The ``:words`` may hold for nothing.
    """
    subjects = tuple(subjects)
    for atom in selector.atoms:
        if atom.kind not in ("status", "class") and not _met(atom, subjects):
            yield f"{atom.text!r} matches nothing{_nearest_to(atom, subjects)}"


def why_nothing(selector: Selector) -> str:
    """One line for a selector that means nothing, though none of its atoms is unmet."""
    apart = ", though each of its parts alone does" if len(selector.atoms) > 1 else ""
    return f"{selector.text!r} matches nothing{apart}"


def _met(atom: Atom, subjects: tuple[Subject, ...]) -> bool:
    return any(_holds(atom, subject) for subject in subjects)


def _nearest_to(atom: Atom, subjects: tuple[Subject, ...]) -> str:
    if atom.kind == "glob":
        return _nearest_glob(atom.text.replace("/", "."), subjects)
    if atom.kind == "type":
        types = dict.fromkeys(name for subject in subjects for name in subject.types)
        return did_you_mean(atom.pattern, types, count=2)
    return ""


def _nearest_glob(text: str, subjects: tuple[Subject, ...]) -> str:
    if text.lstrip("*.") == "bias" and any("bias" in subject.classes for subject in subjects):
        return "; did you mean :bias or **.bias?"
    if text == "default":
        return "; `:all` means every parameter"
    paths = _paths(subjects)
    same = [path for path in paths if path.casefold() == text.casefold()]
    if same:
        return f"; did you mean {same[0]}?"
    wider = re.sub(r"\*+", "**", text)
    if wider != text and _met(_glob_atom(wider), subjects):
        return f"; * stays within a segment and ** crosses dots: did you mean {wider}?"
    deeper = f"**.{text}"
    if _met(_glob_atom(deeper), subjects):
        return f"; did you mean {deeper}?"
    return did_you_mean(text, paths, count=2)


def _glob_atom(text: str) -> Atom:
    return Atom(text, "glob", _glob(text))


def _paths(subjects: tuple[Subject, ...]) -> dict[str, None]:
    """Every name and every path above it."""
    paths: dict[str, None] = {}
    for name in (name for subject in subjects for name in subject.names):
        segments = name.split(".")
        paths.update(dict.fromkeys(".".join(segments[: end + 1]) for end in range(len(segments))))
    return paths
