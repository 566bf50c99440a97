"""Recipes as a person writes them, read and written."""

from __future__ import annotations

import re

import pytest
from drawn_recipes import recipes
from hypothesis import given, settings

from surgery.matching.recipes.recipe import View, join
from surgery.matching.recipes.text import is_expression, read, recipe_of
from surgery.matching.recipes.writing import sides_of, text_of
from surgery.specs import TensorSpec

SHAPES = {
    "q": (4, 6), "k": (4, 6), "kv": (8, 6), "up": (8, 2), "down": (2, 6), "conv": (4, 6, 3, 3),
    "bias": (8,), "one": (), "0": (4, 6), "heads": (2, 3, 4), "c_attn": (6, 12),
}  # fmt: skip
SPECS = {name: TensorSpec(name, shape, "float32") for name, shape in SHAPES.items()}


def source(name):
    return View.of(SPECS[name])


def recipe(text, shape):
    return recipe_of(read(text), SPECS.__getitem__, shape)


@settings(max_examples=1000, deadline=None)
@given(recipes())
def test_a_recipe_is_read_as_it_is_written(drawn):
    specs = {spec.name: spec for spec in drawn.recipe.sources}
    if not specs:
        return
    text = text_of(drawn.recipe)
    assert is_expression(text)
    assert recipe_of(read(text), specs.__getitem__, drawn.recipe.shape) == drawn.recipe
    text, turned = sides_of(drawn.recipe)
    shape = drawn.recipe.shape[::-1] if turned else drawn.recipe.shape
    again = recipe_of(read(text), specs.__getitem__, shape)
    assert (again.permute((1, 0)) if turned else again) == drawn.recipe


#: The text, its shape, and the recipe; all are written so.
TEXTS = [
    ("q + k", (8, 6), join([source("q"), source("k")])),
    ("0[:] + k", (8, 6), join([source("0"), source("k")])),
    ("q[:]", (4, 6), source("q")),
    ("q[:]", (4, 6, 1, 1), source("q").reshape((4, 6, 1, 1))),
    ("q^T", (6, 4), source("q").permute((1, 0))),
    ("kv[1/2]", (4, 6), source("kv").rows(0, 4)),
    ("kv[1:4]", (3, 6), source("kv").rows(1, 4)),
    ("c_attn^T[2/3]", (4, 6), source("c_attn").permute((1, 0)).rows(4, 8)),
    ("conv[1:4, :, 2/3, :]", (3, 6, 1, 3), source("conv").slice(0, 1, 4).slice(2, 1, 2)),
    ("permute(conv, 2, 3, 1, 0)", (3, 3, 6, 4), source("conv").permute((2, 3, 1, 0))),
    ("reorder(kv, 4x2, 1, 0)", (8, 6), source("kv").reorder((4, 2), (1, 0))),
    ("reorder(q + k, 2x4, 1, 0)", (8, 6), join([source("q"), source("k")]).reorder((2, 4), (1, 0))),
    ("concat(q, k; 1)", (4, 12), join([source("q"), source("k")], 1)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shape", "expected"), TEXTS, ids=[case[0] for case in TEXTS])
def test_texts_of_moves(text, shape, expected):
    assert recipe(text, shape) == expected
    assert text_of(expected) == text


@pytest.mark.parametrize(
    ("text", "shape", "found"),
    [
        ("permute(q, 0)", (4, 6), "no order of 2 axes"),
        ("permute(q, one)", (4, 6), "invalid literal"),
        ("reshape(q, 5x5)", (5, 5), "(4, 6) is not (5, 5)"),
        ("reshape(q)", (4, 6), "other arguments"),
        ("reshape(q, 4x6", (4, 6), "expected ')'"),
        ("reorder(q, 5x2, 1, 0)", (4, 6), "is not"),
        ("stack(q, kv)", (2, 4, 6), "cannot be joined"),
        ("concat(q, kv; 1)", (4, 12), "cannot be joined"),
        ("add(q, kv)", (4, 6), "do not come together"),
        ("low_rank(q, k, 1.0)", (4, 6), "no matrix product"),
        ("low_rank(up)", (8, 6), "other arguments"),
        ("stack(q, 0)", (2, 4, 6), "write zeros(4x6)"),
        ("slice(q, 9:12)", (3, 6), "no rows 9 to 12"),
        ("slice(q, a)", (3, 6), "expected a slice"),
        ("q[1/2, 0:9]", (2, 6), "has 6 rows, and no rows 0 to 9"),
        ("bias[0:1, :]", (1,), "has 1 axes, and 2 are sliced"),
        ("strided(q, 20, 6x1)", (6,), "element 25 of 24"),
        ("scale(q, 2) q", (4, 6), "or the end, found ' q'"),
        ("reshape(" * 5000, (4, 6), "nested more than 32 deep"),
        ("scale(" * 33 + "q" + ", 1.0)" * 33, (4, 6), "nested more than 32 deep"),
    ],
)
def test_what_cannot_be_read_or_does_not_fit_says_what_was_found(text, shape, found):
    with pytest.raises(ValueError, match=re.escape(found)):
        recipe(text, shape)


@pytest.mark.parametrize("text", ["add|b", "stack.w", "scale", "permute.0", "slices(a)"])
def test_only_a_reserved_name_before_a_bracket_is_a_function(text):
    assert not is_expression(text)
