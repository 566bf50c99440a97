"""The head of a model that no library speaks for: by its output, or by order, name and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from surgery.head_names import is_auxiliary, is_called_a_head, last_of_each_parent
from surgery.heads.candidates import Chosen, Head, doubt, stated_count
from surgery.heads.output import Output, outputs
from surgery.heads.places import Place


def by_output(model: nn.Module, places: Mapping[str, Place]) -> Head | None:
    """The last layers that the output comes through, and those of outputs in training alone.

    None where the forward cannot be followed. Raises HeadError where it can, but the output
    comes through more, or through something else, or another output is as wide.
    """
    evaluated = outputs(model, places, training=False)
    if evaluated is None:
        return None
    main = _main_output(evaluated, stated_count(model))
    if main is None:
        raise doubt(places, [f"an output comes through {output}" for output in evaluated])
    elsewhere = {place.path for output in evaluated for place in output.layers}
    helpers = {
        place.path: Chosen(place, "an output in training comes through it", auxiliary=True)
        for output in outputs(model, places, training=True) or ()
        for place in (() if output.others else output.layers)
        if place.shape.classes == main.classes and place.path not in elsewhere
    }
    heads = (
        Chosen(place, "the output comes through it", is_auxiliary(place.path))
        for place in main.layers
    )
    return Head((*heads, *helpers.values()), "the model's output")


def _main_output(found: Sequence[Output], stated: int | None) -> Output | None:
    """The one output that can only be class scores; None where there is none, or several.

    Another task's scores may be as many: a name does not say which of the two is meant.
    """
    distinct = {
        output.layers: output
        for output in found
        if not (output.layers and all(is_auxiliary(place.path) for place in output.layers))
    }
    unrivalled = len(distinct) == 1 and stated is None
    clear = [
        output
        for output in distinct.values()
        if output.classes is not None
        and all(_could_be_head(place, stated, unrivalled) for place in output.layers)
    ]
    if len(clear) != 1:
        return None
    (main,) = clear
    as_wide = [output for output in distinct.values() if output.classes == main.classes]
    return main if as_wide == [main] else None


def _could_be_head(place: Place, stated: int | None, unrivalled: bool) -> bool:
    """Beside other outputs, or against a stated count, a layer needs a name or the width; the
    3x3 convolution that a backbone ends with needs them anyway.
    """
    evident = place.shape.classes == stated or is_called_a_head(place.path)
    return evident or (unrivalled and place.shape.pointwise)


def by_registration(model: nn.Module, places: Mapping[str, Place]) -> Head:
    """The last layer, if the stated count or else its name says so, and of no other as well."""
    mains = [path for path in places if not is_auxiliary(path)]
    stated = stated_count(model)
    if stated is None:
        likely = [path for path in mains if is_called_a_head(path)]
        evidence = "by its name"
    else:
        likely = [path for path in mains if places[path].shape.classes == stated]
        evidence = f"and {stated} wide, as many classes as the model states"
    heads = last_of_each_parent(likely)
    if len(heads) > 1:
        raise doubt(places, [f"{heads[-2]} and {heads[-1]} could both be it"])
    if not heads or heads[0] != mains[-1]:
        raise doubt(places, [f"the model states {stated} classes"] if stated is not None else [])
    return Head((Chosen(places[heads[0]], f"the last layer, {evidence}"),), "registration order")
