"""A network with fewer layers, or more: every layer of the target is given one of the source's.

``blocks=depth`` takes evenly spaced layers, the first and the last among them, as the uniform
choice of "Initializing Models with Larger Ones" (Xu et al. 2024) does; in a deeper target that
repeats layers side by side. ``blocks=depth:how=stack`` puts whole copies one on the other
("Efficient Training of BERT by Progressively Stacking", Gong et al. 2019). Never without being
asked: by their names the first layers fit already. The values stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from surgery.errors import SurgeryError, did_you_mean
from surgery.matching.matches import Match, Matches
from surgery.patterns import Subject, Subjects
from surgery.transfers.resize.resizer import Case, Resize, Resizer, one_of
from surgery.transfers.step import Method
from surgery.wrappers import unwrap_name

_REFERENCES = {
    "uniform": "Initializing Models with Larger Ones (Xu et al. 2024)",
    "stack": "Progressively Stacking BERT (Gong et al. 2019)",
}
#: What stands before the number of a layer.
_ABOVE_LAYERS = re.compile(r"\.(?=\d+\.)")


def layers_from(how: str, old: int, new: int) -> tuple[int, ...]:
    """For each of ``new`` layers, the one of ``old`` that it is given; all count from 0.

    >>> layers_from("uniform", 12, 4), layers_from("stack", 3, 6)
    ((0, 4, 7, 11), (0, 1, 2, 0, 1, 2))
    """
    if how == "stack":
        return tuple(layer % old for layer in range(new))
    step = Fraction(old - 1, max(new - 1, 1))
    return tuple(round(layer * step) for layer in range(new))


def restack(
    options: Sequence[Resize], found: Matches, sources: Iterable[str], targets: Iterable[str]
) -> tuple[Matches, dict[str, Method], frozenset[str]]:
    """Give the target's numbered layers those of the source that ``options`` choose.

    ``sources`` are names after the mapping's lines. Returned are the new matches; by target name
    how those came about that meet another layer than their own name's; and the source's names in
    layers that no layer of the target was given. Raises SurgeryError where a pattern names no
    numbered layers of the target, or the source has none there.
    """
    by_target, moved = dict(found.by_target), {}
    left_out: set[str] = set()
    for option in options:
        how = str(option.settings.get("how", "uniform"))
        for path in _stacks(option, targets):
            old, new = _layers(_source_path(path, found), sources), _layers(path, targets)
            given = [list(old)[index] for index in layers_from(how, len(old), len(new))]
            for layer in old.keys() - {*given}:
                left_out.update(old[layer].values())
            for layer, origin in zip(new, given, strict=True):
                if layer == origin:
                    continue
                via = f"{how}, {len(old)} layers to {len(new)}, layer {origin} of the source"
                for rest, target in new[layer].items():
                    own = found.by_target.get(new.get(origin, {}).get(rest, ""))
                    match = _match(target, old[origin].get(rest), own, via)
                    by_target.pop(target, None)
                    if match:
                        by_target[target] = match
                        moved[target] = Method("depth", _REFERENCES[how], named=True)
    return replace(found, by_target=by_target), moved, frozenset(left_out)


def _match(target: str, source: str | None, own: Match | None, via: str) -> Match | None:
    """With the other layer's tensor of the same name, or by the recipe of the target's ``own``
    tensor in that layer.
    """
    if source:
        return Match(target, source, via, tier="lines")
    if own and own.recipe:
        return replace(own, target=target, via=f"{via}, {own.via}")
    return None


def _stacks(option: Resize, targets: Iterable[str]) -> list[str]:
    """The paths of numbered layers that are meant; of nested ones the outermost."""
    assert option.selector is not None
    found = (name[: dot.start()] for name in targets for dot in _ABOVE_LAYERS.finditer(name))
    paths = [*dict.fromkeys(found)]
    subjects = Subjects(Subject((unwrap_name(path), path)) for path in paths)
    chosen = [paths[at] for at in sorted(subjects.meant_by(option.selector).indices)]
    if not chosen:
        near = did_you_mean(str(option.selector), paths)
        raise SurgeryError(
            f"resize {option.text!r} fits nothing; nothing was changed",
            [f"the target has no numbered layers in {option.selector}{near}"],
        )
    return [path for path in chosen if not any(path.startswith(f"{up}.") for up in chosen)]


def _source_path(path: str, found: Matches) -> str:
    """Where the source has these layers, as some match below the target's shows."""
    for target, match in found.by_target.items():
        below = target.removeprefix(path)
        if target.startswith(f"{path}.") and match.source.endswith(below):
            return match.source.removesuffix(below)
    raise SurgeryError(
        f"depth: the source has no numbered layers that match the target's {path}; nothing was "
        "changed",
        ["rename them first (--mapping), so that the first layers meet"],
    )


def _layers(path: str, names: Iterable[str]) -> dict[int, dict[str, str]]:
    """The names below ``path`` by the number of their layer, in order, and by what follows it."""
    layers: dict[int, dict[str, str]] = {}
    for name in names:
        number, _, rest = name.removeprefix(f"{path}.").partition(".")
        if name.startswith(f"{path}.") and number.isdecimal() and rest:
            layers.setdefault(int(number), {})[rest] = name
    return dict(sorted(layers.items()))


def decide(case: Case) -> str:
    """Depth is decided for whole layers, before single tensors are looked at."""
    return ""


RESIZER = Resizer(
    "depth",
    "numbered layers",
    _REFERENCES["uniform"],
    decide,
    options={"how": one_of("uniform", "stack")},
    automatic=False,
)
