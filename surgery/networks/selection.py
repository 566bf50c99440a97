"""What a model answers to a selector: its names, kinds and types, and what a transfer did to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from surgery.errors import SelectorError
from surgery.patterns import (
    STATUS_WORDS,
    Selector,
    Subject,
    Subjects,
    parse_selector,
    why_nothing,
)
from surgery.record import read_record
from surgery.specs import ModelSpec, ParameterSpec, TensorSpec
from surgery.states import STATES
from surgery.wrappers import unwrap_name, unwrap_names

if TYPE_CHECKING:
    from torch import nn


def select(
    model: nn.Module | ModelSpec,
    selector: str | Selector,
    *,
    transfer: object | None = None,
    heads: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The names of the selected parameters, as ``named_parameters`` shows them, in its order.

    ``transfer`` is what :func:`surgery.transfer` returned, or anything else that
    :func:`statuses` reads; ``:new``, ``:loaded``, ``:computed`` and ``:resized`` need it. ``heads``
    are the paths of the head, for ``:head``; a live model is asked for its own. A
    selector that selects no parameter is a :class:`SelectorError`, and so is a name, glob or type
    in it that no parameter has, behind a ``!`` too: ``layer1 & !bnn1`` is a slip.

    >>> surgery.select(torchvision.models.resnet18(), "layer[34]/** & :bias & !**.bn1")
    ('layer3.0.bn2.bias', 'layer3.0.downsample.1.bias', 'layer3.1.bn2.bias',
     'layer4.0.bn2.bias', 'layer4.0.downsample.1.bias', 'layer4.1.bn2.bias')
    """
    spec = spec_of(model)
    selector = parse_selector(selector)
    answers = Answers(spec, statuses(transfer, spec), heads or heads_of(model, (selector,)))
    answers.check(selector)
    subjects = Subjects(answers.parameters())
    meaning = subjects.meant_by(selector)
    if meaning.unmet:
        first, *others = map(subjects.why_unmet, meaning.unmet)
        raise SelectorError(first, others)
    if not meaning.indices:
        raise SelectorError(why_nothing(selector))
    return tuple(spec.parameters[index].name for index in sorted(meaning.indices))


def spec_of(model: nn.Module | ModelSpec) -> ModelSpec:
    """A spec as it is, a module described.

    Raises :class:`~surgery.errors.SurgeryError` for lazy parameters, which have no shape yet.
    """
    if isinstance(model, ModelSpec):
        return model
    from surgery.networks.describe import describe

    return describe(model)


def heads_of(model: nn.Module | ModelSpec, selectors: Iterable[Selector]) -> tuple[str, ...] | None:
    """The paths of a live model's head where a selector asks for ``:head``; None where none does,
    or nothing can tell.
    """
    if isinstance(model, ModelSpec) or not name_the_head(selectors):
        return None
    from surgery.heads import head_paths

    return head_paths(model) or None


def name_the_head(selectors: Iterable[Selector]) -> bool:
    """Whether one of them asks for ``:head``, which somebody has to look for first."""
    return any(atom.text == ":head" for selector in selectors for atom in selector.atoms)


class Answers:
    """What one model answers: the subjects that selectors are asked about.

    ``status`` is every name's state after a transfer, before the model was wrapped or after;
    ``heads`` are the paths of the head's layers. Both are None where nothing tells them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        status: Mapping[str, str] | None = None,
        heads: Sequence[str] | None = None,
    ) -> None:
        aliases = (alias for parameter in spec.parameters for alias in parameter.aliases)
        tensors = (tensor.name for tensor in spec.tensors)
        self._spec, self._status, self._heads = spec, status, heads
        self._clean = unwrap_names(dict.fromkeys((*aliases, *tensors)))
        # What is open keeps its initial values, so that `:new` means it, too.
        named = _unwrapped(status or {}).items()
        self._by_name = {name: "fresh" if at == "open" else at for name, at in named}
        self._below_heads = tuple(unwrap_name(f"{path}.") if path else "" for path in heads or ())
        self._stem = {
            alias for each in spec.parameters if each.depth == 0 for alias in each.aliases
        }

    def check(self, selector: Selector) -> None:
        """Raise :class:`SelectorError` for an atom that nothing at hand can answer."""
        for atom in selector.atoms:
            why = ""
            if atom.kind == "state" and self._status is None:
                why = (
                    "asks what a transfer loaded, and there was no transfer: give one by "
                    "transfer=, or by --from"
                )
            elif atom.kind == "type" and not self._spec.knows_types:
                why = (
                    "asks for module types, and only names and shapes are known: name the "
                    "architecture as well"
                )
            elif atom.text == ":head" and self._heads is None:
                why = "asks for the head, and nothing at hand tells which layers: name their module"
            elif atom.text == ":stem" and not self._stem:
                why = "asks for the first layers, which only timm's models tell: name their module"
            if why:
                raise SelectorError(f"{atom.text!r} {why}")

    def parameters(self) -> tuple[Subject, ...]:
        """One subject for each of the spec's parameters, in their order."""
        return tuple(self._tensor(each.tensor, each.aliases) for each in self._spec.parameters)

    def aliases(self, parameter: ParameterSpec) -> tuple[Subject, ...]:
        """A tied parameter as each of its names alone would be seen."""
        return tuple(self._tensor(parameter.tensor, (alias,)) for alias in parameter.aliases)

    def tensors(self) -> tuple[Subject, ...]:
        """One subject for each of the spec's tensors, buffers too, with its wrappers and below."""
        return tuple(self._tensor(each, (each.name,), each.name) for each in self._spec.tensors)

    def modules(self) -> tuple[Subject, ...]:
        """One subject for each of the spec's modules: its own path and tensors together."""
        paths = unwrap_names(module.path for module in self._spec.modules)
        others = _other_paths(self._spec)
        own: dict[str, list[TensorSpec]] = {}
        for tensor in self._spec.tensors:
            own.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
        return tuple(
            self._subject(
                own.get(module.path, ()),
                [tensor.name for tensor in own.get(module.path, ())],
                (paths[module.path], *others.get(module.path, ())),
                module.types,
                norm=module.norm or module.has_statistics,
            )
            for module in self._spec.modules
        )

    def _tensor(self, tensor: TensorSpec, names: Sequence[str], *also: str) -> Subject:
        owners = [owner for name in names if (owner := self._spec.module_of(name))]
        types = tuple(name for owner in owners for name in owner.types)
        norm = any(owner.norm for owner in owners)
        return self._subject((tensor,), names, also, types, norm=norm)

    def _subject(
        self,
        tensors: Sequence[TensorSpec],
        names: Sequence[str],
        also: Sequence[str],
        types: tuple[str, ...],
        *,
        norm: bool,
    ) -> Subject:
        """``names`` are those of the tensors, ``also`` what else the subject is called."""
        clean = [self._clean[name] for name in names]
        states = (self._by_name[name] for name in clean if name in self._by_name)
        words = frozenset((*self._classes(names, tensors, norm=norm), *states))
        return Subject((*clean, *also), types, words)

    def _classes(
        self, names: Sequence[str], tensors: Iterable[TensorSpec], *, norm: bool
    ) -> Iterator[str]:
        yield "all"
        if norm:
            yield "norm"
        if any(map(is_bias, names)):
            yield "bias"
        if any(len(tensor.shape) <= 1 for tensor in tensors):
            yield "1d"
        if any(self._clean[name].startswith(self._below_heads) for name in names):
            yield "head"
        if not self._stem.isdisjoint(names):
            yield "stem"


def _other_paths(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """The other paths of each module that has several: those under which its buffers go too."""
    paths = {
        names[0].rpartition(".")[0]: [name.rpartition(".")[0] for name in names[1:]]
        for names in spec.shared_buffers
    }
    return {first: tuple(map(unwrap_name, others)) for first, others in paths.items()}


def is_bias(name: str) -> bool:
    """By the last segment: ``bias`` is its first or last word.

    ``fc.bias``, ``in_proj_bias``, ``q_bias`` and an LSTM's ``bias_ih_l0`` are; a
    ``relative_position_bias_table`` is not, it is a table that attention learns like a weight.
    """
    words = name.rpartition(".")[2].split("_")
    return "bias" in (words[0], words[-1])


# --- what a transfer did ------------------------------------------------------------------------


#: What one thing says of a transfer: the states, and the shapes of all targets where it knew them.
_Account = tuple[Mapping[str, str], Mapping[str, tuple[int, ...]] | None]


def statuses(transfer: object | None, spec: ModelSpec) -> Mapping[str, str] | None:
    """Name to one of :data:`surgery.states.STATES`, from whatever a transfer handed over.

    That is what :func:`surgery.transfer` or :func:`surgery.replace_head` returned, a mapping
    that already says so, an opened file that a transfer wrote, or several of these in a list,
    of which later ones overrule. A head's replacement says that its layers are fresh
    and nothing of the rest. A transfer knows the shapes that it loaded: what has another shape
    in ``spec``, or is not among them, came after it and is fresh.

    Anything else is a :class:`SelectorError`.
    """
    if transfer is None:
        return None
    shapes = {alias: each.tensor.shape for each in spec.parameters for alias in each.aliases}
    clean, now = unwrap_names(shapes), _unwrapped(shapes)
    known: dict[str, str] = {}
    complete = False
    for part in transfer if isinstance(transfer, (list, tuple)) else (transfer,):
        status, before = _account_of(part)
        known.update(_unwrapped(status))
        if before is not None:
            complete = True
            shown = _unwrapped(before).items()
            changed = (name for name, shape in shown if now.get(name, shape) != shape)
            known.update(dict.fromkeys(changed, "fresh"))
    for parameter in spec.parameters if complete else ():
        if not any(clean[alias] in known for alias in parameter.aliases):
            known[clean[parameter.name]] = "fresh"
    return known


def _account_of(given: Any) -> _Account:
    if isinstance(given, Mapping):
        unknown = sorted({str(value) for value in given.values()} - {*STATES})
        if unknown:
            words = ", ".join(unknown)
            raise SelectorError(f"a parameter is {', '.join(STATES)} after a transfer, not {words}")
        return given, None
    if all(hasattr(given, status) for status in STATUS_WORDS.values()):
        status = {name: word for word in STATUS_WORDS.values() for name in getattr(given, word)}
        steps = getattr(getattr(given, "plan", None), "steps", None)
        if steps is None:
            return status, None
        return status, {step.target.name: step.target.shape for step in steps}
    if hasattr(given, "new_parameters"):
        return dict.fromkeys(given.new_parameters, "fresh"), None
    if hasattr(given, "specs") and hasattr(given, "metadata"):
        record = read_record(given.metadata, given.specs)
        if record is None:
            raise SelectorError(
                f"{getattr(given, 'path', 'the file')} has no record of a transfer: only a file "
                "that a transfer wrote has one"
            )
        return record.status, {each.name: each.shape for each in record.model.tensors}
    text = repr(given)
    raise SelectorError(
        "transfer takes what surgery.transfer or surgery.replace_head returned, a mapping of "
        "names to loaded, computed, resized or fresh, a file that a transfer wrote (opened with "
        "surgery.open_checkpoint), or several of these in a list; found "
        f"{text if len(text) <= 60 else f'a {type(given).__name__}'}"
    )


Value = TypeVar("Value")


def _unwrapped(values: Mapping[str, Value]) -> dict[str, Value]:
    return {clean: values[name] for name, clean in unwrap_names(values).items()}
