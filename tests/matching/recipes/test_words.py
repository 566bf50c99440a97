import pytest

from surgery.matching.recipes.arithmetic import LowRank, Product, Scaled, Sum
from surgery.matching.recipes.recipe import View, Zeros, join, stack
from surgery.matching.recipes.words import in_words
from surgery.specs import TensorSpec

W, X, CONV = (
    View.of(TensorSpec(name, shape, "float32"))
    for name, shape in {"w": (6, 4), "x": (4, 4), "conv": (6, 4, 3, 3)}.items()
)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (W, "copy"),
        (W.reshape((6, 4, 1, 1)), "reshape"),
        (W.reshape((24,)), "reshape"),
        (W.permute((1, 0)), "transpose"),
        (W.permute((1, 0)).reshape((4, 6, 1, 1)), "transpose"),
        (W.rows(2, 4), "slice rows"),
        (W.permute((1, 0)).rows(2, 3), "transpose, slice rows"),
        (W.slice(1, 2, 4), "slice"),
        (CONV.slice(2, 1, 2), "slice"),
        (join([W, X]), "concatenate rows"),
        (join([W.rows(0, 2), Zeros((2, 4))]), "slice rows, concatenate rows, zeros"),
        (join([W, W], 1), "concatenate"),
        (stack([W, W]), "stack"),
        (CONV.permute((2, 3, 1, 0)), "permute"),
        (W.reorder((2, 3), (1, 0)), "reorder rows"),
        (join([W, W]).reorder((2, 2, 3), (1, 0, 2)), "reorder rows, concatenate rows"),
        (Scaled((W,), 2.0), "scale"),
        (Sum((X, LowRank((X, Product((X, X))), 1.0))), "add, product, low-rank product"),
    ],
)
def test_words(recipe, words):
    assert in_words(recipe) == words
