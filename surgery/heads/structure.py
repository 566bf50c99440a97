"""The head of a model that no library speaks for: by its output, or by order, name and width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.heads.candidates import (
    Chosen,
    Head,
    doubt,
    is_auxiliary,
    is_called_a_head,
    last_of_each_parent,
    stated_count,
)
from surgery.heads.output import Output, outputs
from surgery.heads.places import Place

if TYPE_CHECKING:
    from torch import nn


def by_output(model: nn.Module, places: Mapping[str, Place]) -> Head | None:
    """The last layers that the output comes through, and those of outputs in training alone.

    None where the forward cannot be followed. Raises HeadError where it can, but the output
    comes through more, or through something else, or another output is as wide.
    """
    evaluated = outputs(model, training=False)
    if evaluated is None:
        return None
    by_slot = {slot: place for place in places.values() for slot in place.slots}
    main = _main_output(evaluated, by_slot, stated_count(model))
    if main is None:
        raise doubt(places, [f"an output comes through {_names(output)}" for output in evaluated])
    heads = [by_slot[slot] for slot in by_slot if slot in main.layers]
    elsewhere = {slot for output in evaluated for slot in output.layers}
    helpers = dict.fromkeys(
        slot for slot in _helping_slots(model, main, by_slot) if slot not in elsewhere
    )
    return Head(
        (
            *(Chosen(place, "the output comes through it", is_auxiliary(place)) for place in heads),
            *(
                Chosen(by_slot[slot], "an output in training comes through it", auxiliary=True)
                for slot in helpers
            ),
        ),
        "the model's output",
    )


def _main_output(
    found: Sequence[Output], by_slot: Mapping[str, Place], stated: int | None
) -> Output | None:
    """The one output that can only be class scores; None where there is none, or several."""
    distinct = {
        output.layers: output
        for output in found
        if not (output.layers and all(is_auxiliary(by_slot[slot]) for slot in output.layers))
    }
    unrivalled = len(distinct) == 1 and stated is None
    clear = [
        output
        for output in distinct.values()
        if _is_clear(output, by_slot)
        and all(_could_be_head(by_slot[slot], stated, unrivalled) for slot in output.layers)
    ]
    if len(clear) != 1 or _has_rival(clear[0], distinct.values(), by_slot):
        return None
    return clear[0]


def _has_rival(main: Output, found: Iterable[Output], by_slot: Mapping[str, Place]) -> bool:
    """Another task's scores may be as many: a name does not tell which of the two is meant."""
    return any(
        _is_clear(output, by_slot) and _width(output, by_slot) == _width(main, by_slot)
        for output in found
        if output is not main
    )


def _width(output: Output, by_slot: Mapping[str, Place]) -> int:
    return by_slot[output.layers[0]].shape.classes


def _is_clear(output: Output, by_slot: Mapping[str, Place]) -> bool:
    """Class rows and nothing else, in one layer or in equals that are summed, not joined."""
    widths = {by_slot[slot].shape.classes for slot in output.layers}
    alone = len(output.layers) == 1 or not output.joined
    return not output.others and len(widths) == 1 and alone


def _could_be_head(place: Place, stated: int | None, unrivalled: bool) -> bool:
    """Beside other outputs, or against a stated count, a layer needs a name or the width; the
    3x3 convolution that a backbone ends with needs them anyway.
    """
    evident = place.shape.classes == stated or is_called_a_head(place.path)
    return evident or (unrivalled and place.shape.pointwise)


def _helping_slots(model: nn.Module, main: Output, by_slot: Mapping[str, Place]) -> Iterator[str]:
    classes = _width(main, by_slot)
    for output in outputs(model, training=True) or ():
        for slot in () if output.others else output.layers:
            if by_slot[slot].shape.classes == classes:
                yield slot


def _names(output: Output) -> str:
    first, *rest = (*output.layers, *output.others) or ("nothing with a weight",)
    return f"{first}, and {len(rest)} more as close: {', '.join(rest[:3])}" if rest else first


def by_registration(model: nn.Module, places: Mapping[str, Place]) -> Head:
    """The last layer, if the stated count or else its name says so, and of no other as well."""
    mains = [place for place in places.values() if not is_auxiliary(place)]
    stated = stated_count(model)
    if stated is None:
        likely = [place for place in mains if is_called_a_head(place.path)]
        evidence = "by its name"
    else:
        likely = [place for place in mains if place.shape.classes == stated]
        evidence = f"and {stated} wide, as many classes as the model states"
    heads = last_of_each_parent(likely)
    if len(heads) > 1:
        raise doubt(places, [f"{heads[-2].path} and {heads[-1].path} could both be it"])
    if not heads or heads[0] is not mains[-1]:
        raise doubt(places, [f"the model states {stated} classes"] if stated is not None else [])
    return Head((Chosen(heads[0], f"the last layer, {evidence}"),), "registration order")
