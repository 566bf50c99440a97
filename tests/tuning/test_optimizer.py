import pickle
from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from tiny_models import TiedLanguageModel, TinyNet
from torch import nn

from surgery.errors import OptimizerError, RuleError, SurgeryWarning
from surgery.tuning import apply_training_state, resolve_groups
from surgery.tuning.optimizer import build_optimizer

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 20) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(IMAGES).square().mean().backward()
        optimizer.step()


def by_hand(model: nn.Module) -> list[dict[str, object]]:
    """The loop that people write: freeze the stem, no decay on vectors, a faster head."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(("stem", "bn.")):
            parameter.requires_grad = False
            continue
        rate = 0.01 if name.startswith("fc") else 0.001
        decay = 0.0 if parameter.ndim <= 1 else 0.05
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


RULES = "base lr=0.001 wd=0.05\nstem, bn freeze\n:1d wd=0\nfc lr*=10\n"


class TestBuilds:
    @pytest.mark.parametrize(
        ("name", "kind", "keys"),
        [
            ("sgd", torch.optim.SGD, {"momentum": 0.9}),
            ("adamw", torch.optim.AdamW, {}),
            ("rmsprop", torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
        ],
    )
    def test_twenty_steps_are_those_of_a_hand_written_loop(self, name, kind, keys):
        torch.manual_seed(0)
        model = TinyNet()
        other = deepcopy(model)
        train(model, build_optimizer(model, RULES, optimizer=name, **keys))
        groups = by_hand(other)
        optimizer = kind(groups, **keys)
        other.bn.forward = lambda x: nn.functional.batch_norm(
            x, other.bn.running_mean, other.bn.running_var, other.bn.weight, other.bn.bias
        )
        train(other, optimizer)
        for (parameter, value), expected in zip(
            model.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), parameter

    def test_groups_carry_name_param_names_and_keys(self):
        model = TinyNet()
        optimizer = build_optimizer(
            model, "base optimizer=sgd lr=1 momentum=0.9\nfc lr=2 momentum=0.5 name=head"
        )
        rest, head = optimizer.param_groups
        assert (head["name"], head["param_names"]) == ("head", ["fc.weight", "fc.bias"])
        assert (head["lr"], head["momentum"], head["weight_decay"]) == (2.0, 0.5, 0)
        assert (rest["name"], rest["lr"], rest["momentum"]) == ("stem..blocks", 1.0, 0.9)
        assert [id(p) for p in head["params"]] == [id(model.fc.weight), id(model.fc.bias)]
        assert optimizer.defaults["momentum"] == 0.9

    def test_frozen_is_left_out_and_unfreeze_is_in(self):
        model = TinyNet()
        optimizer = build_optimizer(model, "base lr=1\nstem freeze\nblocks unfreeze@2\nfc lr=2")
        names = [name for group in optimizer.param_groups for name in group["param_names"]]
        assert "stem.weight" not in names
        assert "blocks.0.0.weight" in names
        assert not model.stem.weight.requires_grad
        assert not model.blocks[0][0].weight.requires_grad
        assert model.fc.weight.requires_grad

    def test_from_groups_resolved_before(self):
        model = TinyNet()
        groups = resolve_groups(model, RULES + "base optimizer=sgd momentum=0.9")
        one, other = build_optimizer(model, groups), build_optimizer(model, groups.rules)
        assert str(one) == str(other)
        with pytest.raises(OptimizerError, match="are complete"):
            build_optimizer(model, groups, lr=1)
        with pytest.raises(OptimizerError, match=r"another model's: 'stem\.weight'"):
            build_optimizer(nn.Linear(2, 2), groups)

    def test_a_class_and_keys_of_the_call(self):
        optimizer = build_optimizer(TinyNet(), "", optimizer=torch.optim.Adam, lr=0.5, wd=0.1)
        assert type(optimizer) is torch.optim.Adam
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, 0.1)

    def test_timms(self):
        optimizer = build_optimizer(TinyNet(), "base optimizer=lamb lr=0.1\nfc lr=1")
        assert type(optimizer).__name__ == "Lamb"
        assert optimizer.param_groups[1]["param_names"] == ["fc.weight", "fc.bias"]

    def test_tied_and_wrapped(self):
        model = nn.DataParallel(TiedLanguageModel())
        optimizer = build_optimizer(model, "base optimizer=sgd lr=1\nlm_head lr=2")
        assert optimizer.param_groups[0]["param_names"] == ["module.embed.weight"]
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 3

    def test_compiled_wrapper_with_frozen_norm(self):
        model = torch.compile(TinyNet(), backend="eager")
        build_optimizer(model, "bn freeze")
        model.train()
        before = model.bn.running_mean.clone()
        model(IMAGES)
        assert torch.equal(model.bn.running_mean, before)


class TestErrors:
    def test_nothing_to_optimize(self):
        with pytest.raises(OptimizerError, match="every parameter is frozen"):
            build_optimizer(TinyNet(), ":all freeze")

    def test_unknown_optimizer(self):
        with pytest.raises(RuleError, match="did you mean adamw"):
            build_optimizer(TinyNet(), "base optimizer=adamww")

    def test_lbfgs_takes_one_group(self):
        with pytest.raises(OptimizerError, match="LBFGS cannot be built: LBFGS doesn't support"):
            build_optimizer(TinyNet(), "base optimizer=lbfgs\nfc lr=2")
        assert len(build_optimizer(TinyNet(), "base optimizer=lbfgs").param_groups) == 1

    def test_muon_takes_matrices(self):
        with pytest.raises(OptimizerError, match="Muon takes matrices only"):
            build_optimizer(TinyNet(), "base optimizer=muon")
        build_optimizer(TinyNet(), "base optimizer=muon\n!fc.weight freeze")

    def test_sparse_adam_takes_sparse_embeddings(self):
        model = nn.Sequential(nn.Embedding(3, 2, sparse=True), nn.Linear(2, 2))
        with pytest.raises(OptimizerError, match="SparseAdam takes sparse gradients only"):
            build_optimizer(model, "base optimizer=sparseadam")
        build_optimizer(model, "base optimizer=sparseadam\n1 freeze")

    @pytest.mark.parametrize("rules", ["fx lr=1", "fc foo=1"])
    def test_nothing_is_changed(self, rules):
        model = TinyNet()
        with pytest.raises(RuleError):
            build_optimizer(model, f"stem freeze\n{rules}")
        assert model.stem.weight.requires_grad


NORMS = {
    "1d": (nn.BatchNorm1d(3), (4, 3)),
    "2d": (nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "3d": (nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    "no-affine": (nn.BatchNorm2d(3, affine=False), (4, 3, 5, 5)),
    "instance": (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 3, 5, 5)),
    "timm": (BatchNormAct2d(3), (4, 3, 5, 5)),
}


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Conv1d(1, 1, 1)
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * self.scale.weight.sum())


def move(model: nn.Module, shape: tuple[int, ...], steps: int = 3) -> None:
    for _ in range(steps):
        model(torch.randn(shape) + 2).sum().backward()


class TestFrozenNorms:
    @pytest.mark.parametrize("kind", NORMS)
    def test_statistics_stay_bit_identical(self, kind):
        norm, shape = NORMS[kind]
        model = Normed(deepcopy(norm))
        before = deepcopy(model.norm.state_dict())
        build_optimizer(model, "norm freeze")
        model.train()
        assert (model.training, model.scale.training, model.norm.training) == (True, True, False)
        move(model, shape)
        assert all(torch.equal(before[name], now) for name, now in model.norm.state_dict().items())
        assert type(model.norm) is type(norm)
        assert model.state_dict().keys() == Normed(norm).state_dict().keys()

    @pytest.mark.parametrize(
        "rules", ["norm freeze bn=train", "scale freeze", "norm.weight freeze"]
    )
    def test_others_move(self, rules):
        norm, shape = NORMS["2d"]
        model = Normed(deepcopy(norm))
        build_optimizer(model, rules)
        model.train()
        move(model, shape)
        assert not torch.equal(model.norm.running_mean, norm.running_mean)

    @pytest.mark.parametrize(
        "copied",
        [deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies_hold_their_own(self, copied):
        model = Normed(deepcopy(NORMS["2d"][0]))
        build_optimizer(model, "norm freeze")
        copy = copied(model)
        build_optimizer(model, "norm train")
        copy.train()
        model.train()
        assert (copy.norm.training, model.norm.training) == (False, True)
        assert copy.norm.train() is copy.norm
        assert copy.norm.eval() is copy.norm

    def test_other_rules_release(self):
        model = Normed(deepcopy(NORMS["2d"][0]))
        for rules, training in [
            ("norm freeze", False),
            ("norm freeze bn=train", True),
            ("norm train bn=eval", False),
            ("norm train", True),
        ]:
            build_optimizer(model, rules)
            model.train()
            assert model.norm.training is training
        assert "train" not in model.norm.__dict__

    def test_a_frozen_norms_children_follow_the_model(self):
        model = Normed(BatchNormAct2d(3, drop_layer=nn.Dropout))
        build_optimizer(model, "norm freeze")
        model.train()
        assert (model.norm.training, model.norm.drop.training) == (False, True)
        model.eval()
        assert not model.norm.drop.training

    def test_the_whole_model_may_be_a_norm(self):
        model = nn.BatchNorm1d(3)
        build_optimizer(model, ":all bn=eval")
        assert model.train() is model
        assert not model.training


class TestTrainingState:
    def test_by_epoch(self):
        model = TinyNet()
        groups = resolve_groups(model, "blocks unfreeze@2\nbn freeze")
        for epoch, trains in [(0, False), (1, False), (2, True), (1, False)]:
            apply_training_state(model, groups, epoch)
            assert model.blocks[0][0].weight.requires_grad is trains
            assert model.blocks[0][1].training is trains
            assert not model.bn.weight.requires_grad

    def test_frozen_parameters_lose_their_gradient(self):
        model = TinyNet()
        model(IMAGES).sum().backward()
        build_optimizer(model, "stem freeze")
        assert model.stem.weight.grad is None
        assert model.fc.weight.grad is not None


class TestWarns:
    def test_of_what_the_model_came_frozen_with(self):
        model = TinyNet()
        model.stem.requires_grad_(False)
        with pytest.warns(SurgeryWarning, match="requires_grad off, and no rule a word, on 1"):
            build_optimizer(model, "base lr=1")
        build_optimizer(model, "base lr=1\nstem train")

    def test_of_a_module_that_was_told_requires_grad(self):
        model = TinyNet()
        model.blocks.requires_grad = False
        with pytest.warns(SurgeryWarning, match="`blocks freeze` would"):
            build_optimizer(model, "base lr=1")

    def test_of_new_parameters_at_the_rate_of_loaded_ones(self):
        names = dict.fromkeys(TinyNet().state_dict(), "loaded")
        with pytest.warns(SurgeryWarning, match="the learning rate of loaded"):
            build_optimizer(TinyNet(), "base lr=1", transfer={**names, "fc.bias": "fresh"})


class TestResolved:
    def test_another_model_changes_nothing(self):
        groups = resolve_groups(TinyNet(), "base lr=1\nstem, fc freeze")
        grown = TinyNet()
        grown.extra = nn.Linear(1, 1)
        for other, words in [
            (TinyNet(7), r"'fc.weight' was \(5, 8\) and is \(7, 8\) now"),
            (grown, "'extra.weight' has no group"),
        ]:
            for use in (build_optimizer, apply_training_state):
                with pytest.raises(OptimizerError, match=words):
                    use(other, groups)
            assert other.stem.weight.requires_grad

    def test_the_optimizer_is_settled(self):
        model = TinyNet()
        groups = resolve_groups(model, "base optimizer=sgd lr=1")
        assert type(build_optimizer(model, groups, optimizer="SGD")) is torch.optim.SGD
        with pytest.raises(OptimizerError, match="are complete, and for SGD"):
            build_optimizer(model, groups, optimizer="adam")

    def test_a_local_class(self):
        class Local(torch.optim.SGD):
            pass

        assert type(build_optimizer(TinyNet(), "base lr=1", optimizer=Local)) is Local


def test_what_nothing_can_be_made_of():
    with pytest.raises(OptimizerError, match="the model has no parameters"):
        build_optimizer(nn.ReLU(), "base lr=1")
    frozen = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    with pytest.raises(OptimizerError, match="the model has requires_grad off; write `0 train`"):
        build_optimizer(frozen, "base lr=1")
    with pytest.raises(OptimizerError, match="Muon takes matrices only"):
        build_optimizer(TinyNet(), "base lr=1", optimizer=torch.optim.Muon)


def test_a_shared_norm_is_held_by_its_other_path():
    model = nn.Module()
    model.a = model.b = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    build_optimizer(model, "base lr=1\nb.1 bn=eval")
    model.train()
    assert not model.b[1].training
