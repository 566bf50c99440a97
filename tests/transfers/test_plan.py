import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TiedLanguageModel, TinyNet, Wrapper, randomise, snapshot
from torch import nn

import surgery
from surgery.errors import CheckpointError, MappingError, SurgeryError, TransferRefused
from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers import plan_transfer


def state(*names, shape=(2,), dtype=torch.float32):
    return {name: torch.zeros(shape, dtype=dtype) for name in names}


def test_identity_loads_everything():
    model = TinyNet()
    plan = plan_transfer(model, model)
    assert plan.loaded_fraction == 1.0
    assert not plan.unused
    assert all(step.state == "loaded" and not step.reason for step in plan.steps)


def test_another_head_is_a_step_with_a_reason():
    plan = plan_transfer(TinyNet(num_classes=7), TinyNet(num_classes=5))
    step = plan.by_target["fc.weight"]
    assert step.state == "fresh"
    assert step.reason == "shape differs: source (7, 8), target (5, 8)"
    assert step.source == TensorSpec("fc.weight", (7, 8), "float32")
    assert {u.source.name: u.reason for u in plan.unused} == {
        "fc.weight": "does not fit its target",
        "fc.bias": "does not fit its target",
    }


def test_the_loaded_fraction_counts_parameters_and_not_buffers():
    target = nn.Sequential(nn.BatchNorm1d(10), nn.Linear(10, 2))
    source = {k: v for k, v in target.state_dict().items() if k.startswith("0")}
    assert plan_transfer(source, target).loaded_fraction == pytest.approx(20 / 42, abs=1e-15)


def test_a_tied_parameter_counts_once():
    target = TiedLanguageModel(vocabulary=10, width=4)
    plan = plan_transfer({"body.weight": torch.zeros(4, 4)}, target)
    assert plan.loaded_fraction == pytest.approx(16 / (40 + 16 + 4), abs=1e-15)


def test_a_tie_that_the_source_holds_once_loads_under_all_its_names():
    target = TiedLanguageModel()
    source = dict(target.state_dict())
    del source["lm_head.weight"]
    step = plan_transfer(source, target).by_target["lm_head.weight"]
    assert step.state == "loaded"
    assert step.source.name == "embed.weight"
    assert step.reason == "tied to embed.weight"


@pytest.mark.parametrize(
    ("source", "target", "reason", "expected"),
    [
        pytest.param(
            state("other"),
            nn.BatchNorm1d(2),
            "a counter that the source does not hold",
            True,
            id="num_batches_tracked",
        ),
    ],
)
def test_what_stays_fresh_and_should_not_be_missed(source, target, reason, expected):
    step = plan_transfer(source, target).by_target["num_batches_tracked"]
    assert (step.reason, step.recomputed) == (reason, expected)


def test_integers_are_missed_like_any_other_tensor():
    target = nn.Module()
    target.register_parameter("w", nn.Parameter(torch.zeros(2)))
    target.register_buffer("codes", torch.zeros(4, dtype=torch.int64))
    source = {"w": torch.zeros(2), "qweight": torch.zeros(3, dtype=torch.int8)}
    plan = plan_transfer(source, target, strict=True, fresh="codes")
    assert not plan.by_target["codes"].recomputed
    assert not plan.unused[0].expected
    with pytest.raises(TransferRefused, match="1 tensors differ"):
        plan.refuse_unaccepted()
    with pytest.raises(TransferRefused, match="1 of 2 tensors would stay fresh"):
        plan_transfer(source, target).refuse_unaccepted()


def test_a_buffer_that_the_target_computes_is_known_below_wrappers():
    target = nn.Module()
    target.register_parameter("w", nn.Parameter(torch.zeros(2)))
    target.register_buffer("grid", torch.zeros(4), persistent=False)
    plan = plan_transfer({"module.w": torch.zeros(2), "module.grid": torch.zeros(4)}, target)
    assert [(u.source.name, u.expected) for u in plan.unused] == [("module.grid", True)]


def test_entries_that_cannot_be_read_are_told_and_missed_by_strict():
    source = {**TinyNet().state_dict(), "extra": torch.eye(2).to_sparse(), "note": "text"}
    plan = plan_transfer(source, TinyNet(), strict=True)
    assert dict(plan.unread).keys() == {"extra", "note"}
    assert "in the source, and not read" in str(plan)
    with pytest.raises(TransferRefused, match="2 tensors differ"):
        plan.refuse_unaccepted()


def test_a_tensor_that_cannot_be_read_is_why_its_target_stays_fresh():
    source = {**TinyNet().state_dict(), "fc.bias": torch.zeros(5).to_sparse()}
    step = plan_transfer(source, TinyNet()).by_target["fc.bias"]
    assert step.reason == "the source has a tensor of layout sparse_coo"


def test_a_tie_loads_by_the_name_that_fits():
    model = TiedLanguageModel(vocabulary=10)
    source = {"embed.weight": torch.zeros(5, 4), "lm_head.weight": torch.ones(10, 4)}
    plan = plan_transfer(source, model)
    assert plan.by_target["embed.weight"].reason == "tied to lm_head.weight"
    assert plan.by_target["lm_head.weight"].state == "loaded"
    assert [u.source.name for u in plan.unused] == ["embed.weight"]


def test_a_shared_buffer_loads_under_all_its_names():
    model = nn.Module()
    model.b = model.a = nn.BatchNorm1d(4)
    source = {f"a.{name}": value for name, value in nn.BatchNorm1d(4).state_dict().items()}
    plan = plan_transfer(source, model, strict=True)
    assert plan.by_target["b.running_mean"].reason == "tied to a.running_mean"
    plan.refuse_unaccepted()


def test_an_index_buffer_is_the_targets_own():
    target = nn.Module()
    target.register_parameter("w", nn.Parameter(torch.zeros(2)))
    target.register_buffer("relative_position_index", torch.zeros(4, dtype=torch.int64))
    source = {"w": torch.zeros(2), "position_ids": torch.zeros(3, dtype=torch.int64)}
    plan = plan_transfer(source, target, strict=True)
    assert plan.by_target["relative_position_index"].recomputed
    assert [(u.source.name, u.expected) for u in plan.unused] == [("position_ids", True)]
    plan.refuse_unaccepted()


@pytest.mark.parametrize(
    ("source_dtype", "target_dtype", "status", "reason"),
    [
        pytest.param(torch.float16, torch.float32, "loaded", "cast float16 -> float32", id="up"),
        pytest.param(
            torch.float64, torch.bfloat16, "loaded", "cast float64 -> bfloat16", id="down"
        ),
        pytest.param(
            torch.int64,
            torch.float32,
            "fresh",
            "dtype differs in kind: source int64, target float32",
            id="integer-to-float",
        ),
        pytest.param(
            torch.complex64,
            torch.float32,
            "fresh",
            "a cast complex64 -> float32 would drop values",
            id="complex-to-real",
        ),
    ],
)
def test_casts_are_steps_that_say_so(source_dtype, target_dtype, status, reason):
    target = nn.Module()
    target.register_parameter("w", nn.Parameter(torch.zeros(2, dtype=target_dtype)))
    step = plan_transfer(state("w", dtype=source_dtype), target).by_target["w"]
    assert (step.state, step.reason) == (status, reason)


def test_a_step_says_which_line_renamed_it():
    plan = plan_transfer(
        state("old.weight"),
        [TensorSpec("new.weight", (2,), "float32")],
        mapping="# why\nold -> new",
    )
    assert plan.by_target["new.weight"].reason == "renamed by line 2"


@pytest.mark.parametrize(
    ("mapping", "facts"),
    [
        ({"old": "layr.a"}, ["line 1", "'layr'", "did you mean layer"]),
        ({"old": "layer.c"}, ["line 1", "no such name"]),
    ],
)
def test_a_line_that_leads_nowhere_is_named(mapping, facts):
    target = [TensorSpec(name, (2,), "float32") for name in ("layer.a.w", "b.c.w")]
    plan = plan_transfer(state("old.w"), target, mapping=mapping)
    (unused,) = plan.unused
    assert [fact for fact in facts if fact not in unused.reason] == []


def test_a_misspelt_way_to_leave_out_is_no_name():
    with pytest.raises(MappingError, match=r"did you mean \(unused\)"):
        plan_transfer(state("a.w"), TinyNet(), mapping={"a": "(unusd)"})


def test_fresh_of_what_the_source_gives_is_said():
    source = TinyNet().state_dict()
    name = next(iter(source))
    assert f"--fresh {name} " in str(plan_transfer(source, TinyNet(), fresh=name))
    left = {key: value for key, value in source.items() if key != name}
    assert f"--fresh {name} " not in str(plan_transfer(left, TinyNet(), fresh=name))


def test_less_than_all_is_never_shown_as_all():
    target = nn.ModuleDict({"a": nn.Linear(300, 300, bias=False), "b": nn.Linear(1, 1, bias=False)})
    plan = plan_transfer({"a.weight": target["a"].weight}, target, fresh="b")
    assert plan.loaded_fraction > 0.99995
    assert "99.99%" in str(plan)
    assert "100%" not in str(plan)


def test_two_sources_on_one_target_are_refused():
    with pytest.raises(TransferRefused, match="sends two source tensors to one name") as caught:
        plan_transfer(state("a.w", "b.w"), TinyNet(), mapping={"a": "b"})
    assert caught.value.details[0] == "a.w and b.w -> b.w (line 1)"


def test_two_names_of_one_source_tensor_may_land_on_one_target():
    weight = torch.zeros(2)
    plan = plan_transfer(
        {"a.w": weight, "b.w": weight},
        [TensorSpec("c.w", (2,), "float32")],
        mapping={"a": "c", "b": "c"},
    )
    assert plan.by_target["c.w"].state == "loaded"


def test_an_unknown_way_to_match():
    with pytest.raises(SurgeryError, match="match='name' is not known; expected 'names' or"):
        plan_transfer(TinyNet(), TinyNet(), match="name")


@pytest.mark.parametrize("wrong", [TinyNet().state_dict(), TinyNet, 3])
def test_what_is_no_target_is_named(wrong):
    with pytest.raises(SurgeryError, match="the target is a torch.nn.Module"):
        plan_transfer(TinyNet(), wrong)


@pytest.mark.parametrize("share", [float("nan"), -0.1, 50])
def test_a_share_that_is_none(share):
    with pytest.raises(SurgeryError, match="min_loaded is a share from 0 to 1"):
        plan_transfer(TinyNet(), TinyNet(), min_loaded=share)


def test_specs_may_come_from_a_generator_but_only_once_each():
    specs = plan_transfer(TinyNet(), TinyNet()).steps
    plan = plan_transfer((step.target for step in specs), (step.target for step in specs))
    assert plan.loaded_fraction == 1.0
    doubled = [TensorSpec("a", (1,), "float32")] * 2
    with pytest.raises(CheckpointError, match="'a' more than once"):
        plan_transfer(doubled, TinyNet())


@pytest.mark.parametrize("name", ["_fsdp_wrapped_module._flat_param", "flat_param_0"])
def test_flattened_shards(name):
    with pytest.raises(CheckpointError, match="flattened FSDP shard"):
        plan_transfer(state(name), TinyNet())


def test_planning_leaves_both_sides_alone():
    model, source = randomise(TinyNet(), 1), randomise(TinyNet(7), 2)
    before = snapshot(model), snapshot(source)
    plan_transfer(source, model)
    after = snapshot(model), snapshot(source)
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_plan_as_text_folds_repeated_layers_and_leads_with_the_share():
    text = str(plan_transfer(Wrapper(TinyNet(7)), TinyNet(5)))
    first, *_ = text.splitlines()
    assert first == (
        "27 of 29 tensors and 97.83% of the parameters would be loaded; 2 stay fresh, "
        "2 of the source unused"
    )
    assert "blocks.{0..2}.0.{weight,bias}" in text
    assert "module.* (wrapper)" in text


# Laws ------------------------------------------------------------------------------------------

paths = st.lists(st.sampled_from(["a", "b", "module", "0", "1", "enc"]), min_size=1, max_size=3)
tensor_names = paths.map(lambda path: ".".join([*path, "w"]))
shapes = st.sampled_from([(2,), (3,), (2, 2), ()])
dtypes = st.sampled_from(["float32", "float16", "int64"])


@st.composite
def spec_lists(draw):
    names = draw(st.lists(tensor_names, unique=True, max_size=8))
    return tuple(TensorSpec(name, draw(shapes), draw(dtypes)) for name in names)


@given(spec_lists(), spec_lists())
def test_every_target_in_one_step_and_every_source_used_or_unused(sources, targets):
    plan = plan_transfer(sources, targets)
    assert [step.target for step in plan.steps] == list(targets)
    used = {step.source.name for step in plan.steps if step.state == "loaded"}
    unused = {u.source.name for u in plan.unused}
    assert used | unused == {spec.name for spec in sources}
    assert not used & unused


@given(spec_lists(), spec_lists())
def test_without_ties_no_source_feeds_two_targets(sources, targets):
    fed = [s.source.name for s in plan_transfer(sources, targets).steps if s.state == "loaded"]
    assert len(fed) == len(set(fed))


@given(spec_lists(), spec_lists())
def test_a_plan_is_json_values(sources, targets):
    data = plan_transfer(sources, targets).to_dict()
    assert json.loads(json.dumps(data)) == data


@given(spec_lists())
def test_identity_loads_all(specs):
    plan = plan_transfer(specs, ModelSpec.from_tensors(specs))
    assert plan.loaded_fraction == 1.0
    assert not plan.unused


@settings(max_examples=400)
@given(spec_lists(), spec_lists(), st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(sources, targets, random):
    shuffled = list(sources)
    random.shuffle(shuffled)
    one, other = plan_transfer(sources, targets), plan_transfer(shuffled, targets)
    assert one.steps == other.steps
    assert set(one.unused) == set(other.unused)


def test_rename_errors_reach_the_caller():
    with pytest.raises(MappingError, match="matches none"):
        surgery.plan_transfer(TinyNet(), TinyNet(), mapping={"nowhere": "x"})


def test_one_very_long_name_does_not_widen_every_row():
    names = ["x" * 5000, *(f"layer{letter}.weight" for letter in "abc")]
    plan = plan_transfer(state(*names), ModelSpec.from_tensors(()))
    text = str(plan)
    assert "xxx...xxx" in text
    assert max(map(len, text.splitlines())) < 250
    assert names[0] in str(plan.to_dict())


def test_no_name_of_a_tie_loads_where_none_fits_and_all_do_where_one_does():
    names = tuple(f"m{at}.weight" for at in range(5))
    specs = [TensorSpec(name, (4,), "float32") for name in names]
    target = ModelSpec.from_tensors(specs, [names])
    misfits = [TensorSpec(name, (5,), "float32") for name in names]
    fresh = plan_transfer(misfits, target)
    assert [step.source for step in fresh.steps] == misfits
    assert not any(step.state == "loaded" for step in fresh.steps)
    loaded = plan_transfer([*misfits[:3], specs[3], misfits[4]], target)
    assert {step.source.name for step in loaded.steps if step.state == "loaded"} == {names[3]}
    assert len(loaded.names("loaded")) == 5


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefixes_of_several_segments_are_found_on_either_side(depth):
    prefix = ".".join(f"p{at}" for at in range(depth))
    plain = [TensorSpec(f"blocks.{at}.weight", (2, 3), "float32") for at in range(4)]
    nested = [TensorSpec(f"{prefix}.{spec.name}", spec.shape, spec.dtype) for spec in plain]
    for source, target, verb in ((plain, nested, "added"), (nested, plain, "dropped")):
        plan = plan_transfer(source, target)
        assert {step.reason for step in plan.steps} == {f"prefix {prefix}. {verb}"}


def test_one_tensor_stays_fresh():
    target = [TensorSpec("a", (9,), "float32"), TensorSpec("b", (1,), "float32")]
    text = str(plan_transfer({"a": torch.ones(9)}, target))
    assert "loaded; 1 stays fresh, 0 of the source unused" in text


def test_no_row_of_the_plan_hides_a_swap():
    """fc1 to fc2 and fc2 to fc1 would fold into one innocent row."""
    state = {f"net.{at}.fc{n}.w": torch.zeros(2) for at in (0, 1) for n in (1, 2)}
    targets = [TensorSpec(name.replace("net", "new"), (2,), "float32") for name in state]
    swapped = plan_transfer(state, targets, mapping=r"^net\.(\d)\.fc1 -> new.\1.fc2" "\n"
                            r"^net\.(\d)\.fc2 -> new.\1.fc1")  # fmt: skip
    rows = [line.split() for line in str(swapped).splitlines() if line.startswith("  new.")]
    assert [(row[0], row[3]) for row in rows] == [
        ("new.{0,1}.fc1.w", "net.{0,1}.fc2.w"),
        ("new.{0,1}.fc2.w", "net.{0,1}.fc1.w"),
    ]
    straight = plan_transfer(state, targets, mapping="net -> new")
    assert "new.{0,1}.fc{1,2}.w" in str(straight)
