"""State dicts among the inert values of a pickle, or in a live mapping, wherever a training script
put them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from surgery.checkpoint.contents.choosing import TOP, is_at
from surgery.checkpoint.contents.modules import Unfolding, is_module, module_entries
from surgery.checkpoint.holding import StateDict
from surgery.checkpoint.pickles.inert import Global, Opaque, Ordered, TensorRef, Unreadable
from surgery.checkpoint.places import Place
from surgery.checkpoint.writing.values import is_tensor
from surgery.wording import counted, listed, printable

#: Mappings (and lists) around a state dict or an optimizer's state.
_DEEPEST = 3
_LONGEST_TEXT = 60

#: What a module keeps beside its tensors, under a name of its own; anything at all.
EXTRA_STATE = "_extra_state"

# Tensors below these keys are not weights: moments, loss scales, best scores, random states.
# `optim_d` is an optimizer's, `optimal_model` is not.
_NOT_WEIGHTS = re.compile(
    r"optimi[sz]er|optims?(?![a-z])|(amp|((grad|loss|amp)_)?scaler|callbacks|loops|rng\w*|random_states?"
    r"|(lr_?)?sched\w*|hyper_?param\w*|hparams)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A value that is a state dict with these entries, and the keys that lead to it."""

    path: tuple[str, ...]
    value: Any
    entries: Mapping[Any, Any]

    @property
    def key(self) -> str | None:
        """The path with dots, as a person writes it; None for the outermost mapping."""
        return ".".join(self.path) if self.path else None


def find_state_dicts(top: Any, key: str | None = None) -> tuple[Found, ...]:
    """Every state dict in ``top``, to a depth of three keys.

    A state dict is a mapping from names to tensors for the most part, or any that carries
    torch's ``_metadata``. The mapping at ``key`` counts as one for a single tensor, and even
    where such a key does not usually lead to weights: the caller means it. ``"."`` is ``top``
    itself.
    """
    found = tuple(_search(top, (), set(), Unfolding()))
    if not found and isinstance(top, Mapping) and not top:
        found = (Found((), top, top),)
    if key is None or any(is_at(key, candidate.key) for candidate in found):
        return found
    meant = (at for at in _lookup(top, key, ()) if any(map(_is_tensor, at.entries.values())))
    return (*found, *islice(meant, 1))


def place_all(found: Found, place_of: Callable[[str, TensorRef], Place]) -> StateDict:
    """The state dict with the place that ``place_of`` gives every tensor, or what that raises. A
    tensor of a kind that is not read is only listed.
    """
    attributes = found.value.attributes if isinstance(found.value, Ordered | Opaque) else {}
    places: dict[str, Place] = {}
    unreadable: list[tuple[str, str]] = []
    not_tensors: list[str] = []
    for name, value in found.entries.items():
        if not isinstance(name, str):
            not_tensors.append(str(name))
        elif isinstance(value, TensorRef):
            place = place_of(name, value)
            if place.is_absurd:
                unreadable.append((name, f"a view that repeats {counted(place.extent, 'value')}"))
            else:
                places[name] = place
        elif isinstance(value, Unreadable):
            unreadable.append((name, value.reason))
        else:
            not_tensors.append(name)
    return StateDict(
        found.key,
        places,
        tuple(unreadable),
        tuple(not_tensors),
        module_versions(attributes.get("_metadata")),
        texts(attributes.get("_surgery")),
    )


def others(top: Any, found: tuple[Found, ...]) -> tuple[tuple[str, str], ...]:
    """The top-level entries that lead to no state dict, each in a few words."""
    if any(candidate.key is None for candidate in found):
        return ()
    entries = _entries(top, Unfolding())
    if entries is None or is_optimizer(top):
        return (("", summary(top)),)
    leading = {candidate.path[0] for candidate in found}
    beside = ((key, value) for key, value in entries.items() if key not in leading)
    return tuple((str(key), summary(value)) for key, value in beside)


def summary(value: Any) -> str:
    """A value of a pickle in a few words: ``int 37``, ``argparse.Namespace (opaque)``."""
    match value:
        case None:
            return "None"
        case int() if abs(value) >= 1 << 64:
            return f"int of {value.bit_length():,} bits"
        case bool() | int() | float() | complex():
            return f"{type(value).__name__} {value}"
        case str():
            cut = "..." if len(value) > _LONGEST_TEXT else ""
            return f"str {value[:_LONGEST_TEXT]!r}{cut}"
        case dict() if is_optimizer(value):
            return "an optimizer state"
        case dict():
            first = listed(tuple(islice(value, 4)), 4)
            return f"dict of {len(value):,}" + (f" ({first})" if value else "")
        case bytes() | list() | tuple() | set():
            return f"{type(value).__name__} of {len(value):,}"
        case TensorRef(dtype=dtype, shape=shape):
            return f"{dtype} tensor {'x'.join(map(str, shape)) or 'scalar'}"
        case Unreadable(reason):
            return reason
        case Opaque(name=name):
            return f"{printable(name)} (opaque)"
        case Global(name):
            return printable(name)
        case _:
            return type(value).__name__


def is_optimizer(value: Any) -> bool:
    """Whether a mapping is what ``Optimizer.state_dict`` gives."""
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def optimizers_in(
    value: Any, path: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """What ``Optimizer.state_dict`` gave, with its path, in a value or in what it holds.

    Each object once: a small pickle can name one list a million times, in a million lists.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if is_optimizer(value):
        yield ".".join(path), value
    elif len(path) < _DEEPEST:
        pairs = value.items() if isinstance(value, Mapping) else ()
        for key, child in enumerate(value) if isinstance(value, list) else pairs:
            yield from optimizers_in(child, (*path, str(key)), seen)


def _search(
    value: Any, path: tuple[str, ...], seen: set[int], unfolding: Unfolding
) -> Iterator[Found]:
    """State dicts, innermost first.

    What holds another one is a container with a few tensors, unless its own tensors are named
    as a model's are: ``{**state_dict, "ema": ema_state_dict}`` holds two.
    """
    if id(value) in seen or is_optimizer(value):
        return
    entries = _entries(value, unfolding)
    if entries is None:
        return
    seen.add(id(value))
    inner: list[Found] = []
    for key, child in entries.items() if len(path) < _DEEPEST else ():
        if isinstance(child, Mapping | Opaque) and isinstance(key, str) and _may_be_weights(key):
            inner += _search(child, (*path, key), seen, unfolding)
    yield from inner
    if not all(isinstance(key, str) for key in entries):
        return
    marked = isinstance(value, Ordered) and "_metadata" in value.attributes
    tensors = {name for name, entry in entries.items() if _is_tensor(entry)}
    counted = sum(not key.endswith(EXTRA_STATE) for key in entries)
    if marked or (2 * len(tensors) > counted and _are_named_like_a_model(tensors, inner)):
        yield Found(path, value, entries)


def _are_named_like_a_model(names: Set[str], inner: Sequence[Found]) -> bool:
    """Whether a tensor lies in a layer (``fc.weight``), or is one that an inner dict has too;
    where there is no inner dict, any will do.

    What a script keeps beside its model (``mean``, ``std``, ``best_score``) is named otherwise.
    """
    inside = {name for found in inner for name in found.entries}
    return not inner or any("." in n or n == "weight" or n in inside for n in names)


def _lookup(value: Any, key: str, path: tuple[str, ...]) -> Iterator[Found]:
    """What has entries at a dotted key; the keys on the way may have dots in them themselves."""
    entries = _entries(value, Unfolding()) or {}
    if key == TOP and not path:
        yield Found(path, value, entries)
    if len(path) == _DEEPEST:
        return
    if key in entries:
        yield Found((*path, key), entries[key], _entries(entries[key], Unfolding()) or {})
    for dot in (i for i, character in enumerate(key) if character == "."):
        if key[:dot] in entries:
            yield from _lookup(entries[key[:dot]], key[dot + 1 :], (*path, key[:dot]))


def _may_be_weights(key: str) -> bool:
    """Whether tensors below the key may be a model's: ``optimizer`` and ``scaler`` have others."""
    return not (_NOT_WEIGHTS.match(key) or key.endswith(EXTRA_STATE))


def _entries(value: Any, unfolding: Unfolding) -> Mapping[Any, Any] | None:
    if is_module(value):
        return module_entries(value, unfolding)
    if isinstance(value, Opaque):
        return value.entries or None
    return value if isinstance(value, Mapping) else None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRef | Unreadable) or is_tensor(value)


def module_versions(metadata: Any) -> dict[str, int]:
    """``state_dict()._metadata``: module path to ``{"version": number}``."""
    entries = metadata.items() if isinstance(metadata, Mapping) else ()
    return {
        path: entry["version"]
        for path, entry in entries
        if isinstance(path, str) and isinstance(entry, Mapping)
        if type(entry.get("version")) is int
    }


def texts(metadata: Any) -> dict[str, str]:
    """What is text under a text among metadata of any kind."""
    entries = metadata.items() if isinstance(metadata, dict) else ()
    return {k: text for k, text in entries if isinstance(k, str) and isinstance(text, str)}
