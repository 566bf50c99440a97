import json
from copy import deepcopy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TiedLanguageModel, TinyNet, Wrapper, same_bits, snapshot
from torch import nn

import surgery
from surgery.errors import StageError
from surgery.training.stages import StageChange

BATCHES = torch.randn(20, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.1},
    "adamw": {"weight_decay": 0.1},
    "rmsprop": {"momentum": 0.5, "centered": True},
}
RULES = "base lr=0.01\nstem, bn freeze\nblocks.0 unfreeze@3\nblocks.1 unfreeze@1\nfc lr*=10"


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def by_hand(model: TinyNet, name: str, keys: dict[str, float]) -> None:
    """Twenty steps, four an epoch, with everything that people write for RULES."""
    below = [p for n, p in model.named_parameters() if n.startswith("blocks")]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    groups = [{"params": below, "lr": 0.01}, {"params": model.fc.parameters(), "lr": 0.1}]
    optimizer = kind[name](groups, **keys)
    for epoch in range(5):
        model.train()
        frozen = [model.stem, model.bn]
        frozen += [model.blocks[0]] if epoch < 3 else []
        frozen += [model.blocks[1]] if epoch < 1 else []
        model.requires_grad_(True)
        for module in frozen:
            module.requires_grad_(False).eval()
        trained = [p for p in model.parameters() if p.requires_grad]
        for batch in BATCHES[4 * epoch : 4 * epoch + 4]:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(trained, 0.1)
            optimizer.step()


class TestDriver:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_twenty_steps_are_those_of_a_hand_written_loop(self, name):
        torch.manual_seed(0)
        model = TinyNet()
        other = deepcopy(model)
        optimizer = surgery.build_optimizer(model, RULES, optimizer=name, **OPTIMIZERS[name])
        stages = surgery.build_stages(model, RULES, optimizer=optimizer)
        for epoch in range(5):
            stages.start_epoch(epoch)
            model.train()
            for batch in BATCHES[4 * epoch : 4 * epoch + 4]:
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                nn.utils.clip_grad_norm_(stages.trained_parameters(), 0.1)
                optimizer.step()
        by_hand(other, name, OPTIMIZERS[name])
        assert same_bits(snapshot(model), snapshot(other))

    def test_rules_with_keys_of_the_optimizer_that_is_given(self):
        model, rules = TinyNet(), "base lr=1 momentum=0.9\nstem unfreeze@1"
        optimizer = surgery.build_optimizer(model, rules, optimizer="sgd")
        surgery.build_stages(model, rules, optimizer=optimizer)

    def test_what_changed(self):
        model = TinyNet()
        stages = surgery.build_stages(model, RULES)
        assert stages.epoch is None
        assert stages.unfreezings == (1, 3)
        first = stages.start_epoch(0)
        assert first.frozen[:3] == ("stem.weight", "bn.weight", "bn.bias")
        assert first.held == ("bn", "blocks.0.1", "blocks.1.1")
        change = stages.start_epoch(3)
        assert change.released == ("blocks.0.1", "blocks.1.1")
        assert change.unfrozen[0] == "blocks.0.0.weight"
        assert len(change.unfrozen) == 8
        assert str(change) == (
            "epoch 3: 8 parameters now training (blocks.0.0.weight, blocks.0.0.bias, "
            "blocks.0.1.weight and 5 more); 2 norms released (blocks.0.1, blocks.1.1)"
        )
        assert stages.start_epoch(3) == StageChange(3)
        assert str(stages.start_epoch(4)) == "epoch 4: as before"
        assert change.epoch == 3

    def test_any_epoch_may_be_the_first(self):
        one, other = TinyNet(), TinyNet()
        stages = surgery.build_stages(one, RULES)
        for epoch in range(8):
            stages.start_epoch(epoch)
        surgery.build_stages(other, RULES).start_epoch(7)
        assert [p.requires_grad for p in one.parameters()] == [
            p.requires_grad for p in other.parameters()
        ]

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    def test_forwards_only(self, epochs):
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        stages = surgery.build_stages(model, "0 unfreeze@3")
        for last, epoch in zip([0, *epochs], epochs, strict=False):
            if epoch < (last if stages.epoch is not None else 0):
                with pytest.raises(StageError, match="stages only go forwards") as caught:
                    stages.start_epoch(epoch)
                assert "\n" not in str(caught.value)
                assert stages.epoch == last
                break
            stages.start_epoch(epoch)
            assert model[0].weight.requires_grad is (epoch >= 3)

    @pytest.mark.parametrize("epoch", [-1, 1.0, True, "1", None])
    def test_what_is_no_epoch(self, epoch):
        model = TinyNet()
        with pytest.raises(StageError, match="expected an epoch, a whole number from 0"):
            surgery.build_stages(model, RULES).start_epoch(epoch)
        assert all(p.requires_grad for p in model.parameters())


NORMS = {
    "1d": (nn.BatchNorm1d, (4, 3)),
    "2d": (nn.BatchNorm2d, (4, 3, 5, 5)),
    "3d": (nn.BatchNorm3d, (4, 3, 2, 2, 2)),
    "sync": (nn.SyncBatchNorm, (4, 3, 5, 5)),
}


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.norm = norm
        self.head = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x * self.scale.weight.sum()).mean().reshape(1))


class TestFrozen:
    @pytest.mark.parametrize("kind", NORMS)
    @pytest.mark.parametrize("left", ["none", "stale", "zero"])
    def test_weights_and_statistics_are_bit_identical(self, kind, left):
        norm, shape = NORMS[kind]
        model = Normed(norm(3))
        rules = "base optimizer=adamw lr=0.1 wd=0.1\nscale, norm unfreeze@2"
        optimizer = surgery.build_optimizer(model, rules)
        stages = surgery.build_stages(model, rules, optimizer=optimizer)
        for parameter in [*model.norm.parameters(), *model.scale.parameters()]:
            parameter.grad = {
                "none": None,
                "stale": torch.ones_like(parameter),
                "zero": torch.zeros_like(parameter),
            }[left]
        before = snapshot(model)
        for epoch in range(2):
            stages.start_epoch(epoch)
            model.train()
            for _ in range(3):
                optimizer.zero_grad(set_to_none=False)
                model(torch.randn(shape) + 2).sum().backward()
                optimizer.step()
        after = snapshot(model)
        moved = [name for name in after if not torch.equal(before[name], after[name])]
        assert moved == ["head.weight", "head.bias"]
        assert set(map(id, stages.trained_parameters())) == set(map(id, model.head.parameters()))

    def test_moves_once_its_epoch_has_come(self):
        model = TinyNet()
        stages = surgery.build_stages(model, "bn unfreeze@1")
        stages.start_epoch(0)
        model.train()
        before = snapshot(model.bn)
        model(BATCHES[0])
        assert same_bits(before, snapshot(model.bn))
        stages.start_epoch(1)
        model(BATCHES[0])
        assert not torch.equal(before["running_mean"], model.bn.running_mean)

    def test_gradients_stay_out_of_clipping(self):
        model = TinyNet()
        stages = surgery.build_stages(model, "!fc unfreeze@1")
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e6)
        model.fc.zero_grad()
        stages.start_epoch(0)
        loss_of(model, BATCHES[0]).backward()
        whole = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        assert torch.equal(whole, nn.utils.clip_grad_norm_(stages.trained_parameters(), 1e9))


class TestModels:
    def test_compiled(self):
        torch.manual_seed(0)
        model = TinyNet()
        other = deepcopy(model)
        compiled = torch.compile(model, backend="eager")
        for net in (compiled, other):
            optimizer = surgery.build_optimizer(net, RULES, optimizer="sgd")
            stages = surgery.build_stages(net, RULES, optimizer=optimizer)
            for epoch in (0, 2, 3):
                stages.start_epoch(epoch)
                net.train()
                for batch in BATCHES[:2]:
                    optimizer.zero_grad()
                    loss_of(net, batch).backward()
                    optimizer.step()
        assert same_bits(snapshot(model), snapshot(other))

    @pytest.mark.parametrize("wrap", [Wrapper, lambda model: torch.compile(model, backend="eager")])
    def test_groups_of_the_bare_model_drive_the_wrapped_one(self, wrap):
        model = TinyNet()
        groups = surgery.resolve_groups(model, RULES)
        stages = surgery.build_stages(wrap(model), groups)
        assert "stem.weight" in stages.start_epoch(0).frozen

    def test_another_models_groups(self):
        groups = surgery.resolve_groups(TinyNet(), RULES)
        with pytest.raises(StageError, match=r"another model's: 'stem\.weight' is no parameter"):
            surgery.build_stages(nn.Linear(2, 2), groups)

    def test_an_optimizer_from_before_the_head_was_replaced(self):
        model = TinyNet()
        optimizer = surgery.build_optimizer(model, "fc lr=1")
        surgery.replace_head(model, 7)
        with pytest.raises(StageError, match=r"lacks 2 of 17 parameters .* first is fc\.weight"):
            surgery.build_stages(model, "fc lr=1", optimizer=optimizer)


class TestState:
    def test_is_plain_and_comes_back(self):
        stages = surgery.build_stages(TinyNet(), RULES)
        stages.start_epoch(2)
        state = json.loads(json.dumps(stages.state_dict()))
        model = TinyNet()
        other = surgery.build_stages(Wrapper(model), RULES)
        other.load_state_dict(state)
        assert other.epoch == 2
        assert model.blocks[1][0].weight.requires_grad
        assert not model.blocks[0][0].weight.requires_grad

    def test_before_the_first_epoch(self):
        other = surgery.build_stages(TinyNet(), RULES)
        other.load_state_dict(surgery.build_stages(TinyNet(), RULES).state_dict())
        assert other.epoch is None

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            (
                RULES.replace("@3", "@4"),
                "blocks.0.0.weight is trained from epoch 3 there and trained",
            ),
            ("", "stem.weight is frozen there and trained from the start here"),
        ],
    )
    def test_other_stages_are_refused(self, rules, message):
        saved = surgery.build_stages(TinyNet(), RULES)
        saved.start_epoch(5)
        model = TinyNet()
        stages = surgery.build_stages(model, rules)
        with pytest.raises(StageError, match=message):
            stages.load_state_dict(saved.state_dict())
        assert stages.epoch is None
        assert all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize(
        "state", [{}, None, {"epoch": -1, "when": {}}, {"epoch": 0, "when": 1}]
    )
    def test_damaged_states(self, state):
        with pytest.raises(StageError):
            surgery.build_stages(TinyNet(), RULES).load_state_dict(state)


def starts(model: nn.Module, rules: str) -> dict[str, int]:
    groups = surgery.resolve_groups(model, rules)
    return {
        name: 0 if group.when == "train" else group.when
        for group in groups.groups
        for name in group.param_names
    }


class TestGradualUnfreeze:
    def test_last_layer_first(self):
        assert surgery.gradual_unfreeze(TinyNet(), every=3) == (
            "# The head trains from the start, one stage more every 3 epochs.\n"
            "fc train\nblocks.2 unfreeze@3\nblocks.1 unfreeze@6\nblocks.0 unfreeze@9\n"
            "stem, bn unfreeze@12\n"
        )

    def test_by_the_models_own_depths(self):
        model = timm.create_model("vit_tiny_patch16_224", depth=3)
        lines = surgery.gradual_unfreeze(model, every=1).splitlines()
        assert lines[1:] == [
            "head train",
            "blocks.2, norm unfreeze@1",
            "blocks.1 unfreeze@2",
            "blocks.0 unfreeze@3",
            "cls_token, pos_embed, patch_embed unfreeze@4",
        ]

    @pytest.mark.parametrize(
        "build",
        [
            TinyNet,
            TiedLanguageModel,
            lambda: Wrapper(TinyNet()),
            lambda: nn.Linear(2, 2),
            lambda: nn.BatchNorm1d(2),
            lambda: timm.create_model("resnet18"),
            lambda: timm.create_model("convnext_atto"),
            lambda: timm.create_model("mobilenetv3_small_050"),
        ],
    )
    def test_resolves_and_grows_towards_the_input(self, build):
        from surgery.networks.describe import describe
        from surgery.tuning.stages import layer_depths

        model = build()
        rules = "default error\n" + surgery.gradual_unfreeze(model, every=2)
        found = starts(model, rules)
        assert found.keys() == dict(model.named_parameters()).keys()
        depths = layer_depths(describe(model))
        ordered = [found[name] for name in sorted(found, key=depths.__getitem__)]
        assert ordered == sorted(ordered, reverse=True)
        assert sorted(set(found.values())) == list(range(0, 2 * len(set(found.values())), 2))

    @pytest.mark.parametrize(
        "name",
        [
            "?a",
            "base",
            "split",
            "schedule",
            "model",
            "default",
            "a+b",
            "a$",
            "x*",
            "a/b",
            "[a]",
            "freeze",
            "a b",
            "a#b",
            "#a",
            "a,b",
            "!a",
            ":all",
            "a=1",
            "type:b",
            "a{",
            "-",
        ],
    )
    def test_names_that_rules_would_read_otherwise(self, name):
        model = nn.Sequential()
        for path in (name, "xy", "head"):
            model.add_module(path, nn.Linear(2, 2, bias=False))
        found = starts(model, "default error\n" + surgery.gradual_unfreeze(model))
        assert found == {"head.weight": 0, "xy.weight": 2, f"{name}.weight": 4}

    def test_a_name_that_no_rule_can_say(self):
        model = nn.Sequential()
        model.add_module("a\nb", nn.Linear(2, 2, bias=False))
        with pytest.raises(StageError, match=r"a\\nb.weight' has a name"):
            surgery.gradual_unfreeze(model)

    @pytest.mark.parametrize("every", [0, -1, 1.5, True])
    def test_bad_every(self, every):
        with pytest.raises(StageError, match="expected every= a whole number of epochs from 1"):
            surgery.gradual_unfreeze(TinyNet(), every=every)

    def test_nothing_to_train(self):
        with pytest.raises(StageError, match="no parameters"):
            surgery.gradual_unfreeze(nn.ReLU())
