"""Lines of a mapping that make a tensor of rows of others."""

import pytest
import torch

from surgery.errors import MappingError
from surgery.matching.lines.mapping import parse_mapping
from surgery.matching.lines.recipe_lines import is_recipe
from surgery.matching.recipes.arithmetic import LowRank, Scaled, Sum
from surgery.matching.recipes.recipe import View, Zeros, join, stack
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.transfers import plan_transfer


def specs(tensors):
    return [TensorSpec(name, shape, "float32") for name, shape in tensors.items()]


def plan(text, source, target):
    return plan_transfer(specs(source), specs(target), mapping=text)


def steps(text, source, target):
    return plan(text, source, target).by_target


QKV = {f"e.{at}.{part}.weight": (4, 4) for at in range(3) for part in "qkv"}
FUSED = {f"b.{at}.qkv.weight": (12, 4) for at in range(3)}


def view(name, *shape):
    return View.of(TensorSpec(name, shape, "float32"))


def turned(recipe):
    return recipe.permute((1, 0))


def test_rows_one_below_the_other_in_every_layer():
    made = steps("e.*.q.weight + e.*.k.weight + e.*.v.weight -> b.*.qkv.weight", QKV, FUSED)
    for at in range(3):
        step = made[f"b.{at}.qkv.weight"]
        assert step.recipe == join([view(f"e.{at}.{part}.weight", 4, 4) for part in "qkv"])
        assert step.reason == "line 1, concatenate rows"
        assert step.evidence.tier == "lines"


#: The line, its sources and target, and the recipe.
RECIPES = [
    ("q + 0 + v -> b", {"q": (4,), "v": (4,)}, (12,),
     join([view("q", 4), Zeros((4,)), view("v", 4)])),
    ("w[2/3] -> b", {"w": (12, 4)}, (4, 4), view("w", 12, 4).rows(4, 8)),
    ("w[1:3] -> b", {"w": (12, 4)}, (2, 4), view("w", 12, 4).rows(1, 3)),
    ("w^T -> b", {"w": (4, 6)}, (6, 4), turned(view("w", 4, 6))),
    ("w^T[3/3] -> b", {"w": (4, 6)}, (2, 4), turned(view("w", 4, 6)).rows(4, 6)),
    ("q + k -> b^T", {"q": (2, 4), "k": (2, 4)}, (4, 4),
     turned(join([view("q", 2, 4), view("k", 2, 4)]))),
    ("w[:] -> b", {"w": (6, 4)}, (6, 4, 1, 1), view("w", 6, 4).reshape((6, 4, 1, 1))),
    ("w[:] -> b", {"w": (6, 8)}, (6, 2, 2, 2), view("w", 6, 8).reshape((6, 2, 2, 2))),
    ("w[:] -> b", {"w": (1, 5, 4)}, (5, 4), view("w", 1, 5, 4).reshape((5, 4))),
    ("0[:] + w -> b", {"0": (2, 4), "w": (2, 4)}, (4, 4), join([view("0", 2, 4), view("w", 2, 4)])),
    ("module.w[1/2] -> b", {"module.w": (4, 4)}, (2, 4), view("module.w", 4, 4).rows(0, 2)),
    ("w[0:2, 1] -> b", {"w": (4, 3, 5)}, (2, 5),
     view("w", 4, 3, 5).rows(0, 2).slice(1, 1, 2).reshape((2, 5))),
    ("reshape(scale(w, 2.0), ()) -> b", {"w": (1,)}, (),
     Scaled((view("w", 1),), 2.0).reshape(())),
    ("permute(w, 3, 2, 0, 1) -> b", {"w": (3, 3, 8, 4)}, (4, 8, 3, 3),
     view("w", 3, 3, 8, 4).permute((3, 2, 0, 1))),
    ("stack(x, y) -> b", {"x": (4, 3), "y": (4, 3)}, (2, 4, 3),
     stack([view("x", 4, 3), view("y", 4, 3)])),
    ("reorder(x + y, 2x4, 1, 0) -> b", {"x": (4, 3), "y": (4, 3)}, (8, 3),
     join([view("x", 4, 3), view("y", 4, 3)]).reorder((2, 4), (1, 0))),
    ("scale(w, 0.5) -> b", {"w": (4, 3)}, (4, 3), Scaled((view("w", 4, 3),), 0.5)),
    ("add(w, low_rank(up, down, 2.0)) -> b", {"w": (4, 3), "up": (4, 2), "down": (2, 3)}, (4, 3),
     Sum((view("w", 4, 3), LowRank((view("up", 4, 2), view("down", 2, 3)), 2.0)))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "source", "target", "recipe"), RECIPES, ids=[case[0] for case in RECIPES]
)
def test_recipe(line, source, target, recipe):
    step = steps(line, source, {"b": target})["b"]
    assert step.recipe == recipe
    assert step.state == ("loaded" if recipe.moves else "computed")


def test_names_are_looked_for_below_wrappers_on_both_sides():
    source = {f"module.{name}": shape for name, shape in QKV.items()}
    target = {f"_orig_mod.{name}": shape for name, shape in FUSED.items()}
    made = steps("e.*.q.weight + e.*.k.weight + e.*.v.weight -> b.*.qkv.weight", source, target)
    assert [s.name for s in made["_orig_mod.b.2.qkv.weight"].sources] == [
        "module.e.2.q.weight", "module.e.2.k.weight", "module.e.2.v.weight",
    ]  # fmt: skip


def test_one_source_for_many_targets():
    lines = "\n".join(
        f"b.*.qkv.weight[{n}/3] -> e.*.{part}.weight" for n, part in enumerate("qkv", 1)
    )
    made = steps(lines, FUSED, QKV)
    assert made["e.1.v.weight"].recipe == view("b.1.qkv.weight", 12, 4).rows(8, 12)
    assert all(step.state == "loaded" for step in made.values())


def test_a_copy_is_a_plain_load_and_may_be_one_of_several():
    text = "wte[:] -> wte\nwte[:] -> lm_head"
    made = steps(text, {"wte": (8, 4)}, {"wte": (8, 4), "lm_head": (8, 4)})
    assert all(step.recipe == view("wte", 8, 4) for step in made.values())


def test_a_source_of_a_recipe_is_free_for_a_plain_line_only():
    source, target = {"w": (8, 4)}, {"w": (8, 4), "half": (4, 4)}
    assert steps("w[1/2] -> half", source, target)["w"].state == "fresh"
    assert steps("w[1/2] -> half\nw -> w", source, target)["w"].state == "loaded"


def test_a_deeper_target_keeps_its_layers_fresh():
    made = steps(
        "e.*.q.weight + e.*.k.weight + e.*.v.weight -> b.*.qkv.weight",
        QKV,
        {**FUSED, "b.3.qkv.weight": (12, 4)},
    )
    assert made["b.3.qkv.weight"].state == "fresh"
    assert made["b.2.qkv.weight"].state == "loaded"


def test_a_recipe_speaks_louder_than_a_name():
    made = plan("v[1/2] -> w", {"w": (4, 4), "v": (8, 4)}, {"w": (4, 4)})
    assert made.by_target["w"].source.name == "v"
    assert [(u.source.name, u.reason) for u in made.unused] == [("w", "line 1 makes w")]


def test_a_plain_line_may_say_the_same_as_a_recipe():
    text = "classifier -> head\nclassifier.weight[:] -> head.weight"
    source = {"classifier.weight": (4, 6), "classifier.bias": (4,)}
    made = steps(text, source, {"head.weight": (4, 6, 1, 1), "head.bias": (4,)})
    assert made["head.weight"].state == "loaded"
    assert made["head.bias"].state == "loaded"


def test_what_is_left_out_says_so_and_is_no_difference_under_strict():
    made = plan("aux -> (unused)", {"v": (4,), "aux.w": (4,)}, {"v": (4,), "aux.w": (4,)})
    assert made.by_target["aux.w"].state == "fresh"
    (unused,) = made.unused
    assert (unused.reason, unused.expected) == ("left out by line 1", True)


def test_all_names_of_a_tied_target_are_made_alike():
    tied = ModelSpec.from_tensors(specs({"a": (4, 4), "b": (4, 4)}), ties=[("a", "b")])
    made = plan_transfer(specs({"w": (4, 4)}), tied, mapping="w^T -> a").by_target
    assert made["a"].recipe == made["b"].recipe
    assert made["b"].state == "loaded"


def test_values_are_the_rows_that_the_lines_name():
    state = {"c_attn": torch.randn(4, 12), "q": torch.randn(4), "v": torch.randn(4)}
    text = "c_attn^T[2/3] -> k.weight\nq + 0 -> k.two\nv -> k.bias"
    model = torch.nn.Module()
    model.k = torch.nn.Module()
    for name, shape in {"weight": (4, 4), "two": (8,), "bias": (4,)}.items():
        model.k.register_parameter(name, torch.nn.Parameter(torch.empty(shape)))
    plan_transfer(state, model, mapping=text).apply(model)
    assert torch.equal(model.k.weight, state["c_attn"].T[4:8])
    assert torch.equal(model.k.two, torch.cat([state["q"], torch.zeros(4)]))


@pytest.mark.parametrize(
    "left",
    [
        r"^blocks_(\d+)\.",
        "layer[34]",
        "a+b",
        r"x\+y",
        "[^.]+",
        "a.*",
        "0",
        "w[1/2]x",
        "a|b",
        "layer(1|2)",
        "x([1,2]){1,2}",
    ],
)
def test_what_is_no_recipe_stays_what_it_was(left):
    assert not is_recipe(left, "x")


UNREADABLE = [
    pytest.param("a + + b -> c", "expected names of tensors joined by ' + '", id="half"),
    pytest.param("a + (b) -> c", "found '(b)'", id="not-a-name"),
    pytest.param("a + b -> c d", "expected its name, found 'c d'", id="two-targets"),
    pytest.param("qvk[1/3] -> a, b", "'qvk[1/3]' makes one target tensor", id="named-beside-it"),
    pytest.param("scal(b, 2) -> a", "no recipe 'scal'; did you mean scale?", id="misspelt"),
    pytest.param("scal(b.*, 2) -> a", "did you mean scale?", id="misspelt-before-stars"),
    pytest.param("a + scal(b, 2) -> c", "did you mean scale?", id="misspelt-in-a-sum"),
    pytest.param("add(scal(b, 2), c) -> a", "did you mean scale?", id="misspelt-within"),
    pytest.param("split(qkv, 3) -> q, k, v", "no recipe 'split'", id="unknown-before-its-targets"),
    pytest.param("f(b, 2) -> a", "no recipe 'f'; there are concat, ", id="nothing-near"),
    pytest.param("a + b -> ", "expected its name, found ''", id="no-target"),
    pytest.param("a[4/3] -> b", "there is no part 4 of 3", id="part-out-of-range"),
    pytest.param("a[0/3] -> b", "there is no part 0 of 3", id="parts-count-from-1"),
    pytest.param("a[3:3] -> b", "rows 3 to 3 are none", id="no-rows"),
    pytest.param("0 + 0 -> b", "names no source", id="zeros-alone"),
    pytest.param("a.* + b.* -> c", "'a.*' has 1 '*' and the target 'c' 0", id="star-lost"),
    pytest.param("a.** + b.** -> c.**", "write a * for each", id="any-depth"),
    pytest.param("a.* + b -> c.*", "'b' has 0 '*' and the target 'c.*' 1", id="star-missing"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), UNREADABLE)
def test_lines_that_cannot_be_read(line, message):
    with pytest.raises(MappingError) as caught:
        parse_mapping(f"# comment\n{line}", "map.txt")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("map.txt:2: ")
    assert message in str(caught.value)


SOURCE = {"q.weight": (4, 4), "k.weight": (4, 4), "wide": (4, 6), "conv": (4, 2, 3, 3)}


@pytest.mark.parametrize(
    ("line", "target", "message"),
    [
        ("q.weight + k.weight -> fused", (12, 4),
         "fused is (12, 4), and its rows come as (4, 4) of q.weight + (4, 4) of k.weight"),
        ("q.weight + wide -> fused", (8, 4), "(4, 6) of wide"),
        ("wide[:] -> fused", (6, 4), "fused is (6, 4), and its rows come as (4, 6) of wide"),
        ("slice(concat(zeros(4x6), wide; 0), 0:4, :) -> fused", (4, 6), "leave out what"),
        ("scale(wide) -> fused", (4, 6), "scale(...) has other arguments"),
        ("slic(wide) -> fused", (4, 6), "did you mean slice?"),
        ("wide -> fused^T", (4, 6), "stored (in, out)"),
        ("conv^T -> fused", (4, 18), "only a matrix is stored (in, out): conv is (4, 2, 3, 3)"),
        ("q.weight -> fused^T", (4, 4, 1), "only a matrix is stored (in, out): fused is (4, 4, 1)"),
        ("wide[1/3] -> fused", (1, 6), "the 4 rows of wide are not 3 equal parts"),
        ("wide[2:9] -> fused", (7, 6), "wide has 4 rows, and no rows 2 to 9"),
        ("q.weight + 0 -> fused", (4, 4), "1 '0' must share what is left equally"),
        ("q.weight + 0 + 0 -> fused", (7, 4), "2 '0' must share what is left equally"),
        ("q.weight + v.weight -> fused", (8, 4),
         "for fused: no source tensor is called 'v.weight'"),
        ("q.wieght[1/2] -> fused", (2, 4),
         "no source tensor is called 'q.wieght'; did you mean q.weight?"),
        ("q.weight + k.weight -> fusd", (8, 4),
         "no target tensor is called 'fusd'; did you mean fused?"),
        ("concat(q.weight, k.weight; 5) -> fused", (8, 4), "(4, 4) has no axis 5"),
        ("concat(q.weight, k.weight; -1) -> fused", (4, 8), "(4, 4) has no axis -1"),
        ("*.weight[1/2] -> *.fused", (8, 4), "no target matches '*.fused'"),
    ],
)  # fmt: skip
def test_lines_that_do_not_fit(line, target, message):
    with pytest.raises(MappingError) as caught:
        plan(f"\n{line}", SOURCE, {"fused": target})
    assert caught.value.line == 2
    assert message in str(caught.value)


def test_a_square_matrix_is_turned_where_that_is_said_and_only_there():
    source, target = {"w": (4, 4)}, {"b": (4, 4)}
    assert steps("w^T -> b", source, target)["b"].recipe == turned(view("w", 4, 4))
    assert steps("w[:] -> b", source, target)["b"].state == "loaded"
    assert steps("w^T -> b^T", source, target)["b"].state == "loaded"


def test_every_problem_is_named_at_once():
    text = (
        "q.weight[1/3] -> a\nnothing -> x\nq.weight + k.weight -> b\nwide -> b\n"
        "k.weight + q.weight -> b"
    )
    with pytest.raises(MappingError) as caught:
        plan(text, SOURCE, {"a": (1, 4), "b": (8, 4)})
    problems = {problem.line: problem.message for problem in caught.value.problems}
    assert sorted(problems) == [1, 2, 3, 5]
    assert "matches none of the 4 source names" in problems[2]
    assert problems[3] == "b is made here, and line 4 renames wide to it; remove one of them"
    assert problems[5] == "line 3 makes b already; remove one of them"


def test_recipes_go_with_structure_too():
    source = {f"e.{at}.{n}.weight": (4, 4) for at in range(3) for n in ("up", "down", "odd")}
    names = SourceSpec(tuple(specs(source)))
    target = [*specs({n.replace("e", "blocks", 1): s for n, s in source.items()})]
    made = plan_transfer(
        list(names.specs),
        target,
        match="structure",
        mapping="e.0.odd.weight^T -> blocks.0.odd.weight",
    )
    assert made.by_target["blocks.0.odd.weight"].recipe == turned(view("e.0.odd.weight", 4, 4))


def test_many_stars_take_no_time_that_grows_with_their_number():
    name = "a" * 200
    with pytest.raises(MappingError, match="no target matches"):
        plan(f"{'*a' * 8}*c[:] -> {'*a' * 8}*c", {name: (4,)}, {name: (4,)})
