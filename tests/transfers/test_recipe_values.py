"""Recipes on places in files: the same bits as on tensors, and views wherever they can be."""

from __future__ import annotations

import pytest
import torch
from drawn_recipes import recipes
from hypothesis import given, settings
from hypothesis import strategies as st

import surgery
from surgery.checkpoint.places import Place
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writing.values import Computed
from surgery.errors import TransferRefused
from surgery.matching.recipes.arithmetic import LowRank, Product, Scaled, Sum
from surgery.matching.recipes.recipe import View, Zeros, join, join_rows, stack
from surgery.specs import TensorSpec
from surgery.transfers.recipe_tensors import make_tensor
from surgery.transfers.recipe_values import values_of

STATE = {
    "tall": torch.arange(24.0).reshape(12, 2),
    "wide": torch.arange(100.0, 124.0).reshape(2, 12),
    "picture": torch.arange(200.0, 224.0).reshape(12, 2, 1, 1),
    "deep": torch.arange(300.0, 324.0).reshape(2, 3, 2, 2),
    "row": torch.arange(400.0, 412.0),
    "column": torch.arange(500.0, 512.0).reshape(12, 1, 1),
    "one": torch.tensor(7.0),
    "view": torch.arange(600.0, 624.0).reshape(2, 12).t(),
}
TALL, WIDE, PICTURE, DEEP, ROW, COLUMN, ONE, VIEW = (
    View.of(TensorSpec(name, tuple(value.shape), "float32")) for name, value in STATE.items()
)
SQUARE = WIDE.slice(1, 0, 2)
TURNED = WIDE.permute((1, 0))

#: What it is, the recipe, and if it is a mere view.
CASES = [
    ("a copy", TALL, True),
    ("a reshape", COLUMN.reshape((12,)), True),
    ("ones added", TALL.reshape((12, 2, 1, 1)), True),
    ("ones dropped", PICTURE.reshape((12, 2)), True),
    ("flattened", DEEP.reshape((2, 12)), True),
    ("rows", TALL.rows(4, 8), True),
    ("rows of a vector", ROW.rows(8, 12), True),
    ("turned", TURNED, True),
    ("turned rows", TURNED.rows(4, 8), True),
    ("turned rows of a view", VIEW.permute((1, 0)).rows(1, 2), True),
    ("a box of a view", VIEW.box(((2, 7), (1, 2))), True),
    ("a view reordered", VIEW.reorder((4, 3), (1, 0)), False),
    ("a view split", VIEW.reshape((4, 3, 2)).permute((1, 0, 2)), True),
    ("permuted", DEEP.permute((2, 3, 1, 0)), True),
    ("turned rows with ones", TURNED.rows(0, 4).reshape((4, 2, 1, 1)), True),
    ("turned and flattened", TURNED.reshape((24,)), False),
    ("joined", join_rows([TALL.rows(0, 4), PICTURE.rows(4, 8)], (8, 2)), False),
    ("joined and turned", join([TALL.rows(0, 4), TURNED.rows(4, 8)]).permute((1, 0)), False),
    ("joined side by side", join([TALL, VIEW], 1), False),
    ("stacked", stack([TALL, VIEW]), False),
    ("a third of zeros", join([ROW.rows(0, 4), Zeros((4,)), ROW.rows(8, 12)]), False),
    ("zeros first", join([Zeros((2, 2)), TALL.rows(4, 8)]), False),
    ("rows reordered", TALL.reorder((3, 4), (1, 0)), False),
    ("a scalar", ONE.reshape((1, 1)), True),
    ("computed", Sum((TALL, Scaled((LowRank((TALL, Product((SQUARE, ONE))), 1.0),), 0.5))), False),
]  # fmt: skip


@pytest.fixture(params=["safetensors", "pt", "memory"])
def held(request, tmp_path):
    """Name to what holds its values: a place in a file, or the tensor."""
    return _held(request.param, STATE, tmp_path)


def _held(kind, state, folder):
    if kind == "memory":
        return state
    path = folder / f"state.{kind}"
    if kind == "pt":
        torch.save(state, path)  # keeps the strides of the view
    else:
        surgery.save(state, path)
    checkpoint = surgery.open_checkpoint(path)
    return {name: checkpoint.place(name) for name in state}


def in_memory(values):
    if isinstance(values, torch.Tensor):
        return values
    pieces = [*flat_pieces(values)]
    return torch.cat(pieces).reshape(values.shape) if pieces else torch.empty(values.shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_same_bits_from_files_as_from_memory(held, case):
    _, recipe, is_view = case
    made = values_of(recipe, held)
    assert tuple(made.shape) == recipe.shape
    assert torch.equal(in_memory(made), make_tensor(recipe, STATE.__getitem__))
    if held is not STATE:
        assert isinstance(made, Place if is_view else Computed)


@settings(max_examples=150, deadline=None)
@given(drawn=recipes(), kind=st.sampled_from(["safetensors", "pt"]), turned=st.booleans())
def test_any_recipe_of_a_file(tmp_path_factory, drawn, kind, turned):
    """Also of tensors that a file holds with their last axis first."""
    if not drawn.recipe.sources:
        return
    stored = {
        name: value.movedim(-1, 0).contiguous().movedim(0, -1) if turned and value.dim() else value
        for name, value in drawn.state.items()
    }
    held = _held(kind, stored, tmp_path_factory.mktemp("drawn"))
    assert torch.equal(in_memory(values_of(drawn.recipe, held)), drawn.values)


def test_rows_that_move_beside_computed_ones_come_in_one_dtype(tmp_path):
    """As of a fused projection of which a LoRA changes one part."""
    state = {"q": torch.ones(2, 3).bfloat16(), "k": torch.full((2, 3), 3.0).bfloat16()}
    q, k = (View.of(TensorSpec(name, (2, 3), "bfloat16")) for name in state)
    made = values_of(join([q, Scaled((k,), 2.0)]), _held("safetensors", state, tmp_path))
    pieces = [*flat_pieces(made)]
    assert {str(piece.dtype) for piece in pieces} == {"torch.float32"} == {f"torch.{made.dtype}"}
    assert torch.cat(pieces).tolist() == [1.0] * 6 + [6.0] * 6


def test_what_only_moves_keeps_its_dtype_and_what_is_computed_is_wide():
    state = {"a": torch.ones(2, 2, dtype=torch.float16)}
    held = {"a": Computed((2, 2), "float16", lambda: iter([state["a"].reshape(-1)]))}
    view = View.of(TensorSpec("a", (2, 2), "float16"))
    assert values_of(join([view, view]), held).dtype == "float16"
    scaled = values_of(Scaled((view,), 1e-6), held)
    assert scaled.dtype == "float32"
    assert in_memory(scaled).unique().item() == pytest.approx(1e-6)
    assert values_of(view, held) is held["a"]


def test_gradients_reach_the_sources():
    state = {name: value.clone().requires_grad_() for name, value in STATE.items()}
    recipe = join([TURNED.rows(0, 4), Zeros((1, 2)), TALL.rows(2, 3)])
    make_tensor(recipe, state.__getitem__).sum().backward()
    assert state["wide"].grad[:, :4].sum() == 8
    assert state["wide"].grad.sum() == 8
    assert state["tall"].grad.sum() == 2


@given(
    heights=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    width=st.integers(1, 5),
    turned=st.lists(st.booleans(), min_size=4, max_size=4),
    into=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_slicing_undoes_joining(heights, width, turned, into):
    """Parts joined to one and cut out of it again are the parts, however each is stored."""

    def straight(recipe, turn):
        return recipe.permute((1, 0)) if turn else recipe

    parts = {
        f"part{at}": torch.randn(*((width, rows_) if turned[at] else (rows_, width)))
        for at, rows_ in enumerate(heights)
    }
    views = [View.of(TensorSpec(n, tuple(part.shape), "float32")) for n, part in parts.items()]
    joined = join([straight(view, turned[at]) for at, view in enumerate(views)])
    whole = make_tensor(straight(joined, into), parts.__getitem__)
    fused = straight(View.of(TensorSpec("fused", tuple(whole.shape), "float32")), into)
    start = 0
    for at, rows_ in enumerate(heights):
        cut = straight(fused.rows(start, start + rows_), turned[at])
        start += rows_
        made = make_tensor(cut, {"fused": whole}.__getitem__)
        assert torch.equal(made, parts[f"part{at}"])


class Holding(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("w", value)


COMPUTED = {
    "half-to-single": (torch.float16, torch.float16, 60_000.0, 10_000.0, 70_000.0),
    "two-dtypes": (torch.bfloat16, torch.float32, 256.0, 1.0, 257.0),
    "double": (torch.float64, torch.float32, 2.0**40, 1.0, 2.0**40 + 1),
}


@pytest.mark.parametrize("held", ["in-memory", "in-a-file"])
@pytest.mark.parametrize("case", COMPUTED)
def test_what_is_computed_is_computed_in_single_precision_at_least(case, held, tmp_path):
    one, other, first, second, expected = COMPUTED[case]
    source = {"a": torch.full((2,), first, dtype=one), "b": torch.full((2,), second, dtype=other)}
    if held == "in-a-file":
        torch.save(source, tmp_path / "old.pt")
        source = tmp_path / "old.pt"
    wide = torch.float64 if one == torch.float64 else torch.float32
    model = Holding(torch.zeros(2, dtype=wide))
    outcome = surgery.transfer(source, model, mapping="add(a, b) -> w")
    assert model.w.tolist() == [expected, expected]
    assert outcome.computed == ("w",)
    assert not outcome.overflowed


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_only_real_numbers_are_computed_with(dtype):
    model = Holding(torch.ones(2, dtype=dtype))
    with pytest.raises(TransferRefused, match=r"real numbers.*not (int64|bool|complex64)"):
        surgery.transfer({"w": torch.ones(2, dtype=dtype)}, model, mapping="scale(w, 2.0) -> w")
    assert torch.equal(model.w, torch.ones(2, dtype=dtype))


def test_a_part_of_zeros_has_a_report():
    source = {"y": torch.ones(4, 4)}
    line = "scale(zeros(2x4), 2.0) + y[1/2] -> w"
    outcome = surgery.transfer(source, Holding(torch.ones(4, 4)), mapping=line)
    assert "0 + y" in str(outcome)
