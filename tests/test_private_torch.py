"""What of torch's private names is used is still there, and still does what it did."""

from __future__ import annotations

import ast
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from surgery import private_torch
from surgery.private_torch import (
    TO_MEMORY,
    DispatchMode,
    adam_members,
    foreach_add_,
    foreach_addcmul_,
    foreach_div,
    foreach_div_,
    foreach_lerp_,
    foreach_mul,
    foreach_mul_,
    foreach_norm,
    foreach_sqrt,
    hooks_of,
    is_wrapper,
    memory_of,
    metadata_of,
    own_buffers,
    own_parameters,
    set_metadata,
    set_own,
    synchronised_by,
    takes_foreach,
    tree_leaves,
    writes_to_itself,
)

aten = torch.ops.aten


SOURCES = sorted(Path(private_torch.__file__).parent.glob("**/*.py"))
#: What torch keeps on objects that are not named ``torch``.
ON_OBJECTS = {"_buffers", "_cdata", "_metadata", "_modules", "_parameters", "_schema"}


def privates_in(text):
    """Private names of torch in Python's text, and the modules that they come from."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            path = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in path if name.startswith("_"))
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            owner = ast.unparse(node.value).split(".")[0]
            if owner == "torch" or (node.attr in ON_OBJECTS and owner != "self"):
                yield node.attr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_they_stand_in_one_module(path):
    found = set(privates_in(path.read_text(encoding="utf-8")))
    assert bool(found) == (path.name == "private_torch.py"), found


@pytest.mark.parametrize("name", sorted(TO_MEMORY))
def test_ways_to_a_tensors_memory(name):
    assert hasattr(torch.Tensor, name)


def test_a_mode_sees_operators():
    seen = []

    class Watch(DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.empty(3).zero_()
    assert isinstance(seen[-1], private_torch.Operator)
    assert seen[-1] == aten.zero_.default


def test_views_share_their_memory_and_copies_do_not():
    whole = torch.zeros(4, 4)
    assert memory_of(whole) == memory_of(whole[1:].t()) != memory_of(whole.clone())
    before = memory_of(whole)
    whole.resize_(100, 100)
    assert memory_of(whole) == before


@pytest.mark.parametrize(
    ("operator", "view", "writes"),
    [
        (aten.view.default, True, False),
        (aten.transpose.int, True, False),
        (aten.normal_.default, False, True),
        (aten.mul_.Tensor, False, True),
        (aten.zero_.default, False, True),
        (aten.resize_.default, False, False),
        (aten.t_.default, False, False),
        (aten.unsqueeze_.default, False, False),
        (aten.add.Tensor, False, False),
        (aten.empty.memory_format, False, False),
        (aten.add.out, False, False),
    ],
    ids=str,
)
def test_what_operators_do_to_memory(operator, view, writes):
    assert (operator.is_view, writes_to_itself(operator)) == (view, writes)


def test_leaves_of_nested_arguments():
    assert tree_leaves(([1, {"a": (2,)}], {"b": 3})) == [1, 2, 3]


def test_a_modules_own_tensors():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3, bias=False))
    assert own_parameters(layer) == {"bias": None}
    norm = nn.BatchNorm1d(2)
    assert own_parameters(norm)["weight"] is norm.weight
    assert own_buffers(norm)["running_mean"] is norm.running_mean
    weight = nn.Parameter(torch.zeros(2))
    set_own(norm, {"weight": weight, "bias": None}, {})
    assert norm.weight is weight
    assert not list(norm.buffers())


def test_hooks_can_be_taken_off():
    layer, seen = nn.Linear(2, 2), []
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    for hooks in hooks_of(layer):
        hooks.clear()
    layer(torch.zeros(1, 2))
    assert not seen


def test_what_a_state_dict_notes_beside_its_tensors():
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    assert {path: entry["version"] for path, entry in metadata_of(state).items()} == {
        "": 1,
        "0": 1,
        "1": 2,
    }
    assert metadata_of(dict(state)) is None
    plain = OrderedDict(state)
    set_metadata(plain, OrderedDict({"1": {"version": 1}}))
    noted = []
    norm = nn.BatchNorm1d(2)
    norm.register_load_state_dict_pre_hook(lambda *args: noted.append(args[3]["version"]))
    nn.Sequential(nn.Linear(2, 2), norm).load_state_dict(plain)
    assert noted == [1]


def test_many_tensors_at_once():
    ones, twos = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 2.0)]
    foreach_add_(ones, 1)
    foreach_mul_(ones, 4)
    foreach_lerp_(ones, twos, 0.5)
    assert [each.tolist() for each in ones] == [[5, 5], [5, 5, 5]]
    foreach_addcmul_(ones, twos, twos, 0.25)
    foreach_div_(ones, [6.0, 3.0])
    assert [each.tolist() for each in ones] == [[1, 1], [2, 2, 2]]
    made = foreach_div(foreach_mul(twos, ones), foreach_sqrt(foreach_mul(twos, twos)))
    assert [each.tolist() for each in made] == [[1, 1], [2, 2, 2]]
    assert [n.item() for n in foreach_norm(made, 1, dtype=torch.float64)] == [2, 6]


def test_torch_takes_one_after_the_other_on_the_cpu():
    assert not takes_foreach([torch.zeros(2)])


def test_what_adam_keeps():
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))])
    parameter, unused = adam.param_groups[0]["params"]
    parameter.grad = torch.ones(2)
    ((found, gradient, mean, square, step),) = adam_members(adam, adam.param_groups[0])
    assert (found is parameter, gradient is parameter.grad) == (True, True)
    state = adam.state[parameter]
    assert (mean is state["exp_avg"], square is state["exp_avg_sq"]) == (True, True)
    assert step is state["step"]
    assert unused not in adam.state


def test_tensors_that_wrap_others():
    class Plain(torch.Tensor):
        pass

    assert not is_wrapper(torch.zeros(2))
    assert not is_wrapper(torch.zeros(2).as_subclass(Plain))
    assert is_wrapper(TwoTensor(torch.zeros(2), torch.zeros(2)))


def test_what_a_distributed_wrapper_collected(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/at", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(False)
        wrapper = nn.parallel.DistributedDataParallel(model)
        found = {id(parameter) for parameter in synchronised_by(wrapper)}
    finally:
        dist.destroy_process_group()
    assert found == {id(parameter) for parameter in model[1].parameters()}
