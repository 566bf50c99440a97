"""Orders of elements as recipes: what is folded makes the same elements again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.matching.code.folding import NoRecipe, recipe_of
from surgery.matching.code.origins import OPEN, ZERO
from surgery.matching.code.program import Parameter
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import make_tensor

SHAPES = {"a": (6, 4), "b": (6, 4), "c": (12, 4), "d": (6,)}


def parameters():
    first, found = 0, []
    for name, shape in SHAPES.items():
        found.append(Parameter(name, shape, first))
        first += int(np.prod(shape))
    return found


PARAMETERS = parameters()
VALUES = {x.name: x.first + torch.arange(x.numel).view(x.shape).double() for x in PARAMETERS}
SPECS = [TensorSpec.of(name, value) for name, value in VALUES.items()]
A, B, C, D = VALUES.values()

ORDERS = {
    "as it is": A,
    "transposed": A.t(),
    "rows": C[3:7],
    "every other row": C[::2],
    "columns": C[:, 1:3],
    "a product of axes": C.view(3, 4, 4).transpose(0, 1).reshape(12, 4),
    "one behind the other": torch.cat([A, B]),
    "beside each other": torch.cat([A, B], 1),
    "stacked": torch.stack([A, B]),
    "in turns by two rows": torch.stack([A.view(3, 2, 4), B.view(3, 2, 4)], 1).reshape(12, 4),
    "in turns by a row": torch.stack([A, B], 1).reshape(12, 4),
    "halves to pairs": C.view(2, 6, 4).transpose(0, 1).reshape(12, 4),
    "blocks in another order": torch.cat([C[8:], C[:4], C[4:8]]),
    "with zeros": torch.cat([D, torch.full((3,), float(ZERO))]),
    "zeros alone": torch.full((4,), float(ZERO)),
    "a scalar": A[2, 3],
    "three axes": C.view(2, 6, 4).permute(2, 0, 1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_recipe_makes_the_order_it_was_folded_from(name):
    wanted = ORDERS[name]
    recipe = recipe_of(wanted.long().numpy(), PARAMETERS, SPECS)
    made = make_tensor(recipe, VALUES.__getitem__, torch.float64)
    assert torch.equal(made, wanted.clamp(min=0))
    assert recipe.shape == tuple(wanted.shape)


def test_one_source_as_it_is_is_a_copy():
    assert recipe_of(A.long().numpy(), PARAMETERS, SPECS).is_copy


@pytest.mark.parametrize(
    "order",
    [
        torch.arange(24).flip(0).view(6, 4),
        C.view(-1)[torch.randperm(48, generator=torch.Generator().manual_seed(0))].view(12, 4),
        torch.full((3,), OPEN),
    ],
)
def test_an_order_that_no_recipe_says_is_refused_and_never_rounded(order):
    with pytest.raises(NoRecipe):
        recipe_of(order.long().numpy(), PARAMETERS, SPECS)
