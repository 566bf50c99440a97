"""Recipes are what torch makes by the same steps, whole, cut, and as ranges of elements."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from drawn_recipes import boxes, recipes
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.matching.recipes.ranges import ranges
from surgery.matching.recipes.recipe import View, Zeros, join, strided
from surgery.matching.recipes.writing import recipe_to_dict
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import make_tensor


def values_of(recipe, state):
    return make_tensor(recipe, state.__getitem__, torch.float64)


@settings(max_examples=500, deadline=None)
@given(recipes())
def test_the_values_are_those_of_the_same_steps_in_torch(drawn):
    assert drawn.recipe.shape == tuple(drawn.values.shape)
    assert torch.equal(values_of(drawn.recipe, drawn.state), drawn.values)
    assert {spec.name for spec in drawn.recipe.sources} <= {*drawn.state}


@settings(max_examples=500, deadline=None)
@given(recipes(), st.data())
def test_a_cut_is_the_box_of_the_whole(drawn, data):
    box = data.draw(boxes(drawn.recipe.shape, empty=True))
    part = drawn.recipe.box(box)
    expected = drawn.values[tuple(slice(*pair) for pair in box)]
    assert torch.equal(values_of(part, drawn.state), expected)
    assert {*part.sources} <= {*drawn.recipe.sources}


@settings(max_examples=500, deadline=None)
@given(recipes(computed=False), st.data())
def test_the_ranges_are_the_values_in_order_and_none_could_be_longer(drawn, data):
    box = data.draw(boxes(drawn.recipe.shape))
    for recipe, values in (
        (drawn.recipe, drawn.values),
        (drawn.recipe.box(box), drawn.values[tuple(slice(*pair) for pair in box)]),
    ):
        runs = [*ranges(recipe)]
        pieces = [
            drawn.state[source.name].reshape(-1)[first : first + count]
            if source
            else torch.zeros(count, dtype=torch.float64)
            for source, first, count in runs
        ]
        found = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)
        assert torch.equal(found, values.reshape(-1))
        for (one, first, count), (other, begin, _) in pairwise(runs):
            assert one != other or (one and begin != first + count)


@settings(max_examples=300, deadline=None)
@given(recipes())
def test_a_recipe_is_json_values_that_tell_it_from_others(drawn):
    data = recipe_to_dict(drawn.recipe)
    assert json.loads(json.dumps(data)) == data
    assert data != recipe_to_dict(Zeros(drawn.recipe.shape)) or isinstance(drawn.recipe, Zeros)


def test_steps_of_a_view_are_those_of_its_values_however_they_are_stored():
    odd = View.of(TensorSpec("w", (3,), "float32"))
    every_other = strided(odd.base, [[(2, 2)]], 0)
    storage = torch.arange(1.0, 7.0)
    for column, expected in ((storage[1::2], [2.0, 6.0]), (storage[2:5], [3.0, 5.0])):
        assert make_tensor(every_other, {"w": column}.__getitem__).tolist() == expected


W = View.of(TensorSpec("w", (6, 4), "float32"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(W.permute((1, 0)).permute((1, 0)), W, id="turned-twice"),
        pytest.param(W.reshape((2, 3, 4)).reshape((24,)).reshape((6, 4)), W, id="split-and-merged"),
        pytest.param(W.rows(2, 6).rows(1, 3), W.rows(3, 5), id="rows-of-rows"),
        pytest.param(W.reorder((2, 3), (1, 0)).reorder((3, 2), (1, 0)), W, id="reordered-back"),
        pytest.param(
            join([join([W, W]), W]), join([W, W, W]), id="joined-in-two-steps"
        ),
        pytest.param(
            join([W, W]).reshape((2, 6, 4)).reshape((12, 4)), join([W, W]), id="of-a-recipe"
        ),
    ],
)  # fmt: skip
def test_two_ways_to_the_same_are_one_value(one, other):
    assert one == other


def test_a_cut_takes_only_the_parts_that_reach_into_it():
    q, k = (View.of(TensorSpec(name, (4, 8), "float32")) for name in "qk")
    fused = join([q, k])
    assert fused.box(((0, 4), (0, 8))) == q
    assert fused.box(((2, 6), (0, 4))).sources == (q.source, k.source)
    assert fused.permute((1, 0)).box(((0, 8), (4, 8))) == k.permute((1, 0))
    heads = fused.reorder((2, 2, 2), (1, 0, 2))  # q and k of one head beside each other
    assert [*ranges(heads.box(((0, 2), (0, 8))))] == [(q.source, 0, 16)]


def test_a_cut_through_merged_axes_is_three_views_at_most():
    flat = View.of(TensorSpec("w", (5, 6, 7), "float32")).permute((1, 0, 2)).reshape((30, 7))
    assert len(flat.box(((3, 27), (0, 7))).views) == 3
    assert len(flat.box(((5, 10), (0, 7))).views) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: W.rows(3, 7),
        lambda: W.rows(3, 3),
        lambda: W.reshape((5, 5)),
        lambda: W.permute((0, 0)),
        lambda: W.box(((0, 7), (0, 4))),
        lambda: join([W, Zeros((2, 3))]),
    ],
)
def test_what_does_not_fit_is_a_value_error(wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        wrong()
