import json
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from tiny_models import TiedLanguageModel, TinyNet
from torch import nn

import surgery
from surgery.errors import OptimizerError, RuleError, SelectorError, SurgeryError
from surgery.networks.describe import describe
from surgery.record import Record
from surgery.specs import ModelSpec
from surgery.tuning import ParamGroups, initial_rules, resolve_groups, why

TINY = describe(TinyNet())


def table(groups: ParamGroups) -> dict[str, dict[str, object]]:
    """Hyper-parameters and ``when`` by parameter name."""
    return {
        name: {**dict(group.hyper), "when": group.when}
        for group in groups.groups
        for name in group.param_names
    }


def problems(model: nn.Module | ModelSpec, rules: str, **options) -> list[tuple[int, str]]:
    with pytest.raises(RuleError) as caught:
        resolve_groups(model, rules, **options)
    return [(problem.line, problem.message) for problem in caught.value.problems]


class TestAttributes:
    @pytest.mark.parametrize(
        ("rules", "rate"),
        [
            ("fc lr=1", 1),
            ("fc lr*=10", 1),
            ("fc lr=1\nfc lr*=0.5", 0.5),
            ("fc.weight lr*=3\nfc lr*=2", 0.6),
            (":all lr=5\nfc lr=1", 1),
            (":all decay=0.5\nfc lr*=2", 0.2),
            ("fc lr*=2\nfc wd=1", 0.2),
        ],
    )
    def test_last_set_wins_and_scales_follow(self, rules, rate):
        groups = resolve_groups(TINY, "base lr=0.1\n" + rules)
        assert table(groups)["fc.weight"]["lr"] == pytest.approx(rate)

    def test_each_attribute_is_for_itself(self):
        groups = resolve_groups(
            TINY,
            "base optimizer=sgd lr=1 wd=0.1 momentum=0.9\n"
            "blocks lr*=0.5\n:1d wd=0\nblocks.2 & :norm momentum=0.5",
        )
        assert table(groups)["blocks.2.1.weight"] == {
            "lr": 0.5,
            "weight_decay": 0,
            "momentum": 0.5,
            "when": "train",
        }
        assert table(groups)["stem.weight"] == {
            "lr": 1,
            "weight_decay": 0.1,
            "momentum": 0.9,
            "when": "train",
        }

    def test_the_call_overrules_the_file(self):
        groups = resolve_groups(
            TINY, "base optimizer=sgd lr=1 wd=0.1", optimizer="adam", base={"lr": 2, "wd": 0.2}
        )
        assert (groups.optimizer, dict(groups.base)) == ("Adam", {"lr": 2.0, "weight_decay": 0.2})

    def test_what_nobody_gives_is_the_optimizers_own_and_said(self):
        groups = resolve_groups(TINY, "")
        assert (groups.optimizer, dict(groups.groups[0].hyper)["lr"]) == ("AdamW", 1e-3)
        assert groups.warnings == (
            "no optimizer is named: AdamW is taken (base optimizer=...)",
            "no learning rate is given: AdamW's own lr=0.001 is taken (base lr=...)",
        )

    @pytest.mark.parametrize(
        ("rules", "when"),
        [
            ("fc freeze", "frozen"),
            ("fc unfreeze@3", 3),
            ("fc unfreeze@0", "train"),
            (":all freeze\nfc train", "train"),
            (":all train\nfc freeze", "frozen"),
            (":all freeze\nfc unfreeze@2", 2),
        ],
    )
    def test_when(self, rules, when):
        assert table(resolve_groups(TINY, rules))["fc.bias"]["when"] == when

    def test_what_the_model_froze_stays_frozen_and_is_said(self):
        model = TinyNet()
        model.stem.requires_grad_(False)
        groups = resolve_groups(model, "base optimizer=sgd lr=1\nfc lr=2")
        (frozen,) = (group for group in groups.groups if group.frozen)
        assert (frozen.param_names, frozen.frozen_by_model) == (("stem.weight",), True)
        assert any("requires_grad off" in warning for warning in groups.warnings)
        assert table(resolve_groups(model, "stem train"))["stem.weight"]["when"] == "train"

    def test_integers_stay_frozen(self):
        model = nn.Linear(2, 2)
        model.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
        assert table(resolve_groups(model, ":all train"))["codes"]["when"] == "frozen"


class TestMerging:
    RULES = "base optimizer=sgd lr=1 momentum=0.9\n:1d wd=0\nblocks lr*=0.5\nfc name=head"

    def test_equal_outcomes_are_one_group_in_model_order(self):
        groups = resolve_groups(TINY, "base optimizer=sgd lr=1 wd=0.1\n:1d wd=0\nblocks wd=0")
        assert [group.name for group in groups.groups] == ["stem..fc", "bn..fc"]
        assert groups.groups[0].param_names == ("stem.weight", "fc.weight")

    def test_names_are_unique_and_stable(self):
        groups = resolve_groups(TINY, self.RULES + "\nbase wd=0.1")
        names = [group.name for group in groups.groups]
        assert names == ["stem.weight", "bn", "blocks", "blocks & :1d", "head", "head & :1d"]
        again = resolve_groups(TINY, self.RULES + "\nbase wd=0.1")
        assert again == groups

    def test_a_name_splits_groups(self):
        groups = resolve_groups(TINY, "fc name=head\nstem name=stem")
        assert [group.name for group in groups.groups] == ["stem", "bn..blocks", "head"]

    def test_names_run_out_into_numbers(self):
        groups = resolve_groups(TINY, ":all name=all\nfc.bias lr=1\nfc.weight lr=2")
        assert [group.name for group in groups.groups] == [
            "all",
            "all & fc.weight",
            "all & fc.bias",
        ]
        groups = resolve_groups(TINY, ":all name=x\n:all decay=0.5")
        assert [group.name for group in groups.groups] == ["x", "x #2", "x #3", "x #4", "x #5"]

    def test_counts(self):
        groups = resolve_groups(TINY, "base optimizer=adamw lr=1\nstem freeze")
        frozen, rest = groups.groups
        assert (frozen.tensors, frozen.parameters, frozen.nbytes) == (1, 216, 864)
        assert (frozen.hyper, frozen.state_bytes) == ((), 0)
        assert rest.state_bytes == 2 * rest.nbytes + 4 * rest.tensors == groups.state_bytes
        model = TinyNet()
        assert groups.parameters == sum(p.numel() for p in model.parameters())
        assert groups.trained_parameters == groups.parameters - 216

    def test_lines_behind_a_group(self):
        groups = resolve_groups(TINY, self.RULES)
        lines = {
            group.name: [(rule.line, rule.text) for rule in group.lines] for group in groups.groups
        }
        assert lines["blocks"] == [(2, ":1d wd=0"), (3, "blocks lr*=0.5")]

    def test_json(self):
        groups = resolve_groups(TINY, "base optimizer=adam lr=1 betas=0.8,0.9\nstem unfreeze@2")
        data = json.loads(json.dumps(groups.to_dict()))
        assert data["groups"][0]["when"] == 2
        assert data["groups"][0]["hyper"]["betas"] == [0.8, 0.9]
        assert data["total"]["parameters"] == groups.parameters


class TestWhy:
    def test_lines_in_order_with_values(self):
        groups = resolve_groups(
            TINY, "base optimizer=sgd lr=1\n:all decay=0.5\nblocks lr*=0.1 freeze\n:1d wd=0"
        )
        fired = why(groups, "blocks.2.1.bias")
        assert [(f.line, f.action, f.attribute, f.value) for f in fired] == [
            (1, "lr=1.0", "lr", 1.0),
            (0, "weight_decay=0", "weight_decay", 0),
            (2, "decay=0.5", "lr", 0.5),
            (3, "lr*=0.1", "lr", 0.05),
            (3, "freeze", "when", "frozen"),
            (4, "wd=0", "weight_decay", 0.0),
        ]

    def test_any_name_of_it_will_do(self):
        groups = resolve_groups(TiedLanguageModel(), "embed lr=1")
        assert why(groups, "lm_head.weight") == why(groups, "module.embed.weight")

    def test_nearest_name(self):
        with pytest.raises(SelectorError, match=r"did you mean fc.bias or"):
            why(resolve_groups(TINY, ""), "fc.bais")


class TestErrors:
    @pytest.mark.parametrize(
        ("rules", "line", "message"),
        [
            ("fx lr=1", 1, "'fx' matches nothing; did you mean fc?"),
            ("fc & stem lr=1", 1, "matches nothing, though each of its parts alone does"),
            ("type:Conv3d lr=1", 1, "did you mean Conv2d"),
            ("fc bn=eval", 1, "'bn=eval' has no effect: 'fc' means no norm with running"),
            (":new lr=1", 1, "':new' asks what a transfer loaded"),
            ("fc weight_deacy=1", 1, "AdamW has no key 'weight_deacy'; did you mean weight_decay?"),
            ("fc momentum*=2", 1, "AdamW has no key 'momentum'"),
            ("fc betas*=2", 1, "'betas*=2' scales (0.9, 0.999), and only a number can be scaled"),
            ("fc amsgrad*=2", 1, "only a number can be scaled"),
            ("base wieght_decay=1", 1, "did you mean weight_decay?"),
            ("fc lr=1\nfc lr=2", 1, "'fc lr=1' has no effect: overwritten by line 2"),
            ("fc lr*=2\n\n:all lr=1", 1, "overwritten by line 3"),
            ("fc freeze\nfc.weight train\nfc.bias unfreeze@1", 1, "overwritten by lines 2, 3"),
            ("bn bn=eval\nbn bn=train", 1, "overwritten by line 2"),
            ("fc name=a\n:all name=b", 1, "overwritten by line 2"),
            (
                "default error\nstem, blocks, bn, fc.weight lr=1",
                1,
                "no rule names 1 parameter (fc.bias) of 17",
            ),
            ("fc eps=small", 1, "eps: expected a number, found 'small'"),
            ("fc betas=2", 1, "betas: expected 2 numbers, found 2"),
            ("fc betas=0.9,0.99,0.999", 1, "expected 2 numbers, found (0.9, 0.99, 0.999)"),
            ("fc amsgrad=maybe", 1, "amsgrad: expected true or false, found 'maybe'"),
            ("fc foreach=2", 1, "expected true, false or none, found 2"),
            ("fc eps=-1\nfc wd=0", 1, "group 'fc': AdamW cannot be built: Invalid epsilon"),
            ("base betas=2,3", 1, "AdamW cannot be built: Invalid beta parameter"),
            ("base lr=1\nbase betas=2", 2, "betas: expected 2 numbers, found 2"),
            ("base optimizer=sgd lr=1\nbase momentum=-1", 2, "SGD cannot be built: Invalid mom"),
            ("base optimizer=sgd\nbase nesterov=true", 2, "Nesterov momentum requires"),
            ("base optimizer=sgd\nbase nesterov=maybe", 2, "nesterov: expected true or false"),
            ("fc, stme lr=1", 1, "'stme' matches nothing; did you mean stem"),
            ("!fcc lr=1", 1, "'fcc' matches nothing; did you mean fc?"),
            ("fc & !type:Linaer lr=1", 1, "'type:Linaer' matches nothing; did you mean Linear?"),
            ("!!fc lr=1", 1, "'!!fc' has more than one !"),
            ("FC lr=1", 1, "'FC' matches nothing; did you mean fc?"),
            ("bias lr=1", 1, "did you mean :bias or **.bias?"),
            ("*bias lr=1", 1, "did you mean :bias or **.bias?"),
            ("b*.weight & blocks*.bias lr=1", 1, "** crosses dots: did you mean blocks**.bias?"),
            ("0.1 lr=1", 1, "did you mean **.0.1?"),
            ("default freeze", 1, "'default' matches nothing; `:all` means every parameter"),
            ("fc freeze\nfc lr*=2", 2, "'fc lr*=2' has no effect: line 1 freezes it"),
            ("fc eps=-1", 1, "group 'fc': AdamW cannot be built: Invalid epsilon value: -1"),
        ],
    )
    def test_line_and_message(self, rules, line, message):
        ((found_line, found),) = problems(TINY, rules)
        assert (found_line, message in found) == (line, True), found

    def test_all_at_once(self):
        assert [line for line, _ in problems(TINY, "fx lr=1\nfc foo=1\nfc lr=1\nfc lr=2")] == [
            1,
            2,
            3,
        ]

    def test_a_question_mark_lets_a_rule_match_nothing(self):
        groups = resolve_groups(TINY, "? layer5 freeze\n? fc bn=eval\nfc lr=1")
        assert table(groups)["fc.weight"]["lr"] == 1

    @pytest.mark.parametrize(
        "rules", ["fc lr=1\nfc.weight lr=2", "fc lr=1 wd=0\nfc lr=2", "fc lr=1\nfc lr*=2\nfc wd=1"]
    )
    def test_partly_overwritten_is_fine(self, rules):
        resolve_groups(TINY, rules)

    def test_default_error_is_content_when_all_are_named(self):
        resolve_groups(TINY, "default error\n!fc freeze\nfc lr=1")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"base": {"weight_deacy": 1}}, "AdamW has no key 'weight_deacy'; did you mean"),
            ({"base": {"lr": -1}}, "expected a finite number from 0, found '-1'"),
            ({"base": {"betas": (2, 3)}}, "AdamW cannot be built: Invalid beta"),
            ({"optimizer": "adamq"}, "no optimizer is called 'adamq'"),
        ],
    )
    def test_what_the_call_asked(self, options, message):
        with pytest.raises(OptimizerError) as caught:
            resolve_groups(TINY, "", **options)
        assert message in caught.value.message


def test_an_optimizer_that_the_rules_misspell_has_their_line():
    with pytest.raises(RuleError) as caught:
        resolve_groups(TINY, "# mine\nbase optimizer=adamv\nfc lr=1")
    assert caught.value.line == 2
    assert "no optimizer is called 'adamv'" in caught.value.message
    assert "did you mean adam" in caught.value.message


class TestTied:
    def test_counts_once(self):
        groups = resolve_groups(TiedLanguageModel(), "lm_head lr=1")
        assert groups.parameters == 44 + 20
        assert groups.groups[0].param_names == ("embed.weight",)

    @pytest.mark.parametrize(
        "rules",
        [
            "embed lr=1\nlm_head lr=1",
            ":all lr=2\nlm_head lr=1",
            "embed lr*=2\nlm_head lr*=3",
            "embed lr=1\nembed, lm_head wd=0\nembed & !body lr*=2",
        ],
    )
    def test_agreeing_names(self, rules):
        resolve_groups(TiedLanguageModel(), rules)

    @pytest.mark.parametrize(
        ("rules", "words"),
        [
            ("embed lr=1\nlm_head lr=2", "'lr=2' here disagrees with 'lr=1' in line 1"),
            ("embed freeze\nbody lr=1\nlm_head train", "'train' here disagrees with 'freeze'"),
        ],
    )
    def test_names_that_disagree(self, rules, words):
        ((_, message),) = problems(TiedLanguageModel(), rules)
        assert words in message
        assert "lm_head.weight and embed.weight are one tied parameter" in message


class TestNorms:
    @pytest.mark.parametrize(
        ("rules", "held"),
        [
            ("fc freeze", ()),
            ("bn freeze", ("bn",)),
            ("bn.weight freeze", ()),
            ("bn freeze bn=train", ()),
            ("bn bn=eval", ("bn",)),
            (":norm bn=eval\nblocks bn=train", ("bn",)),
            ("bn unfreeze@2", ("bn",)),
            ("blocks.[01] freeze", ("blocks.0.1", "blocks.1.1")),
            (r"/^bn\./ freeze", ("bn",)),
        ],
    )
    def test_wholly_frozen_norms_are_held(self, rules, held):
        assert resolve_groups(TINY, rules).bn_eval_at(0) == held

    def test_until_the_first_parameter_trains(self):
        groups = resolve_groups(TINY, "bn.weight unfreeze@5\nbn.bias unfreeze@3")
        assert groups.norms[0].until == 3
        assert [groups.bn_eval_at(epoch) for epoch in (0, 2, 3)] == [("bn",), ("bn",), ()]

    @pytest.mark.parametrize(
        ("rules", "held"),
        [(":all freeze", ("1",)), ("1 freeze", ("1",)), ("0 freeze", ()), ("!1 freeze", ())],
    )
    def test_without_parameters_the_path_decides(self, rules, held):
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
        assert resolve_groups(model, rules).bn_eval_at(0) == held


class TestWarnings:
    @pytest.mark.parametrize(
        ("rules", "words"),
        [
            ("fc|stem lr=1", "'fc|stem' has characters that no name has and was read as a regular"),
            (
                "fc lr=1",
                "no rule names 15 parameters (stem.weight, bn.weight, bn.bias and 12 more)",
            ),
            (":all decay=0.5", "their order makes 5 stages"),
            ("fc lr=0", "lr=0 does not freeze 2 parameters (fc.weight, fc.bias)"),
            ("blocks & !:norm freeze", "3 norms (blocks.0.1, blocks.1.1, blocks.2.1) still move"),
        ],
    )
    def test_is_said(self, rules, words):
        warnings = resolve_groups(TINY, "base optimizer=sgd lr=1\n" + rules).warnings
        assert any(words in warning for warning in warnings), warnings

    @pytest.mark.parametrize(
        "rules",
        [":all lr=1", "default error\n!fc freeze\nfc lr=1", ":all lr=1\nblocks freeze\nstem lr*=2"],
    )
    def test_is_silent(self, rules):
        assert resolve_groups(TINY, "base optimizer=sgd lr=0.1\n" + rules).warnings == ()

    def test_a_module_that_was_told_requires_grad(self):
        model = TinyNet()
        model.blocks.requires_grad = False
        (warning,) = resolve_groups(model, "base optimizer=sgd lr=1").warnings
        assert "module.requires_grad was set on blocks" in warning

    def test_new_at_the_rate_of_loaded(self):
        names = [parameter.name for parameter in TINY.parameters]
        status = {name: "fresh" if name.startswith("fc") else "loaded" for name in names}
        head = "base optimizer=sgd lr=1\n"
        (warning,) = resolve_groups(TINY, head, transfer=status).warnings
        assert warning.startswith(
            "new 2 parameters (fc.weight, fc.bias) learn at lr=1, the learning rate"
        )
        assert resolve_groups(TINY, f"{head}:new lr*=9\n!:new wd=0", transfer=status).warnings == ()
        assert (
            resolve_groups(TINY, f"{head}:loaded freeze\n:new wd=0", transfer=status).warnings == ()
        )


def rates(groups: ParamGroups) -> dict[str, tuple[float, float]]:
    return {
        name: (row["lr"], row["weight_decay"])
        for name, row in table(groups).items()  # type: ignore[misc]
    }


class TestTimm:
    @pytest.mark.parametrize(
        "name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto", "efficientnet_b0"]
    )
    @pytest.mark.parametrize("wrap", [False, True])
    def test_layer_decay_is_timms(self, name, wrap):
        model = timm.create_model(name)
        base = {"lr": 2e-3, "wd": 0.05}
        spec = describe(nn.DataParallel(model) if wrap else model)
        groups = resolve_groups(spec, ":all decay=0.75\n:1d wd=0", optimizer="adamw", base=base)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        expected = {
            names[id(parameter)]: (group["lr_scale"] * 2e-3, group["weight_decay"])
            for group in param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.75)
            for parameter in group["params"]
        }
        found = {name.removeprefix("module."): row for name, row in rates(groups).items()}
        assert found.keys() == expected.keys()
        for parameter, row in expected.items():
            assert found[parameter] == pytest.approx(row, rel=1e-12, abs=0)


class TestTutorials:
    """Groupings that tutorials build by hand, as rules."""

    def test_backbone_and_classifier(self):
        model = nn.ModuleDict({"backbone": TinyNet(), "classifier": nn.Linear(5, 2)})
        groups = resolve_groups(model, "base optimizer=sgd lr=1e-3\nclassifier lr=1e-2")
        assert [(g.name, dict(g.hyper)["lr"], g.tensors) for g in groups.groups] == [
            ("backbone", 1e-3, 17),
            ("classifier", 1e-2, 2),
        ]

    def test_special_layers_filtered_by_id(self):
        model = nn.Sequential()
        for name in ("conv1", "conv2", "conv5"):
            model.add_module(name, nn.Conv2d(1, 1, 1))
        model.add_module("fc", nn.Linear(1, 1))
        special = {id(p) for layer in (model.fc, model.conv5) for p in layer.parameters()}
        groups = resolve_groups(model, "base optimizer=sgd lr=0.01\nfc, conv5 lr*=10")
        for name, parameter in model.named_parameters():
            assert table(groups)[name]["lr"] == (0.1 if id(parameter) in special else 0.01)
        assert len(groups.groups) == 2

    def test_resnet_stages_with_falling_rates(self):
        model = torchvision.models.resnet18()
        rules = "base optimizer=sgd lr=1e-2\nconv1, bn1 freeze\n" + "\n".join(
            f"layer{stage} lr*={0.3 ** (5 - stage)}" for stage in range(1, 5)
        )
        groups = resolve_groups(model, rules)
        assert [group.name for group in groups.groups] == [
            "conv1..bn1", "layer1", "layer2", "layer3", "layer4", "fc"
        ]  # fmt: skip
        for stage in range(1, 5):
            hyper = dict(groups.groups[stage].hyper)
            assert hyper["lr"] == 1e-2 * 0.3 ** (5 - stage)


class TestInitialRules:
    @pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "vit_b_16", "swin_t"])
    def test_of_torchvision(self, name):
        with torch.device("meta"):
            spec = describe(getattr(torchvision.models, name)())
        self.check(spec, f"torchvision:{name}")

    @pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
    def test_of_timm(self, name):
        self.check(describe(timm.create_model(name)), f"timm:{name}")

    @pytest.mark.parametrize(
        "model",
        [
            nn.Linear(2, 2),
            nn.BatchNorm1d(2),
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            TinyNet(),
            TiedLanguageModel(),
            nn.DataParallel(TinyNet()),
        ],
        ids=["linear", "norm", "two", "tiny", "tied", "wrapped"],
    )
    def test_of_small_models(self, model):
        self.check(describe(model), None)

    def check(self, spec: ModelSpec, arch: str | None) -> None:
        text = initial_rules(spec, arch)
        groups = resolve_groups(spec, text)
        assert groups.rules.model == arch
        assert not any("no rule names" in w for w in groups.warnings if len(spec.parameters) > 6)
        # What is offered as a comment holds as well.
        offered = [
            line[2:] for line in text.splitlines() if line.endswith(("freeze", "unfreeze@2"))
        ]
        for line in offered:
            resolve_groups(spec, f"{text}{line}\n")


SELECTORS = ("stem", "bn", "blocks.0", "blocks.1", "blocks.2", "fc", ":norm", ":bias", "!:1d")
ACTIONS = ("lr*=2", "lr*=0.5", "wd*=3", "momentum*=0.5", "decay=0.5")


@st.composite
def rule_lines(draw) -> list[str]:
    rule = st.tuples(st.sampled_from(SELECTORS), st.sampled_from(ACTIONS))
    scales = [f"{selector} {action}" for selector, action in draw(st.lists(rule, max_size=6))]
    # One `=` of a kind overwrites nothing.
    last = draw(st.sampled_from(SELECTORS))
    return [*scales, f"{last} {draw(st.sampled_from(('freeze', 'unfreeze@2', 'name=x')))}"]


HEAD = ["base optimizer=sgd lr=1 wd=0.5 momentum=0.9"]


class TestLaws:
    @given(rule_lines())
    def test_every_parameter_is_in_exactly_one_group(self, lines):
        groups = resolve_groups(TINY, [*HEAD, *lines])
        names = [name for group in groups.groups for name in group.param_names]
        assert sorted(names) == sorted(parameter.name for parameter in TINY.parameters)
        assert len({group.name for group in groups.groups}) == len(groups.groups)
        order = {parameter.name: index for index, parameter in enumerate(TINY.parameters)}
        firsts = [order[group.param_names[0]] for group in groups.groups]
        assert firsts == sorted(firsts)
        json.dumps(groups.to_dict())

    @given(
        st.permutations(["stem lr=2", "bn wd=0", "blocks.0 freeze", "fc lr*=3", ":1d momentum=0"])
    )
    def test_the_order_of_independent_lines_does_not_matter(self, lines):
        one = table(resolve_groups(TINY, [*HEAD, *lines]))
        other = table(resolve_groups(TINY, [*HEAD, *sorted(lines)]))
        assert one == other

    def test_inputs_stay_as_they_are(self):
        model = TinyNet()
        before = deepcopy(model.state_dict())
        status = {"fc.weight": "fresh"}
        base = {"lr": 0.1}
        resolve_groups(model, "stem freeze\n:new lr*=2", transfer=status, base=base)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(module.training for module in model.modules())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert (status, base) == ({"fc.weight": "fresh"}, {"lr": 0.1})

    def test_a_file_is_enough(self):
        file = ModelSpec.from_tensors(TINY.tensors)
        rules = "base optimizer=sgd lr=1\n:1d wd=0\nblocks.[01] freeze\n:all decay=0.5"
        assert table(resolve_groups(file, rules)) == table(resolve_groups(TINY, rules))
        assert resolve_groups(file, rules).bn_eval_at(0) == resolve_groups(TINY, rules).bn_eval_at(
            0
        )


class TestStatuses:
    """What ``transfer=`` may be, and what it says."""

    def new(self, model: nn.Module | ModelSpec, transfer: object) -> set[str]:
        groups = resolve_groups(model, "base optimizer=sgd lr=1\n:new name=new", transfer=transfer)
        return {n for g in groups.groups if g.name.startswith("new") for n in g.param_names}

    def test_a_head_that_was_replaced_is_new(self):
        model = TinyNet()
        swap = surgery.replace_head(model, 3)
        assert self.new(model, swap) == {"fc.weight", "fc.bias"}
        groups = resolve_groups(model, "base lr=1\n!:new wd=0", transfer=swap)
        assert groups.parameters == sum(p.numel() for p in model.parameters())

    def test_what_was_replaced_after_the_transfer_is_new(self):
        model = TinyNet()
        outcome = surgery.transfer(TinyNet(), model)
        surgery.replace_head(model, 10)
        model.extra = nn.Linear(2, 2)
        fresh = {"fc.weight", "fc.bias", "extra.weight", "extra.bias"}
        assert self.new(model, outcome) == fresh
        assert self.new(nn.DataParallel(model), outcome) == {f"module.{name}" for name in fresh}

    def test_later_ones_overrule(self):
        model = TinyNet()
        outcome = surgery.transfer(TinyNet(), model)
        swap = surgery.replace_head(model, 5)
        assert self.new(model, [outcome, swap]) == {"fc.weight", "fc.bias"}
        assert self.new(model, (swap, outcome, {"stem.weight": "fresh"})) == {"stem.weight"}

    def test_a_file_that_a_transfer_wrote(self, tmp_path):
        surgery.save(TinyNet(7), tmp_path / "old.safetensors")
        path = tmp_path / "new.safetensors"
        model = TinyNet()
        spec = describe(model)
        status = {t.name: "fresh" if t.name == "fc.bias" else "loaded" for t in spec.tensors}
        metadata = Record("tiny", status, spec).to_metadata()
        save_file(model.state_dict(), path, metadata=metadata)
        for source in (path, str(path), surgery.open_checkpoint(path), [path]):
            assert self.new(model, source) == {"fc.bias"}
        with pytest.raises(SelectorError, match="has no record of a transfer"):
            self.new(model, tmp_path / "old.safetensors")

    @pytest.mark.parametrize("transfer", [5, True, object(), TinyNet(), [None]])
    def test_anything_else_is_refused(self, transfer):
        with pytest.raises(SelectorError, match=r"transfer takes what surgery\.transfer or"):
            self.new(TINY, transfer)


class TestTogether:
    def test_lines_that_can_be_read_are_checked_beside_those_that_cannot(self):
        found = problems(TINY, "base optimizer=adamv\nfc freze\nfx lr=1\nfc lr=1\nfc lr=2")
        assert [line for line, _ in found] == [1, 2, 3]
        found = problems(TINY, "base weight_deacy=1\nfc freze\nfx lr=1\nfc foo=1")
        assert [line for line, _ in found] == [1, 2, 3, 4]

    def test_the_rate_is_missed_only_where_it_is_missing(self):
        with pytest.raises(OptimizerError) as caught:
            resolve_groups(TINY, "", base={"betas": (2.0, 3.0)})
        assert caught.value.details == ()

    @pytest.mark.parametrize("value", ["no", 0, "maybe"])
    def test_the_calls_values_are_held_to_the_same(self, value):
        with pytest.raises(OptimizerError, match="nesterov: expected true or false"):
            resolve_groups(TINY, "base optimizer=sgd lr=1 momentum=0.9", base={"nesterov": value})

    @pytest.mark.parametrize("word", ["no", "off", "False"])
    def test_words_for_booleans(self, word):
        groups = resolve_groups(TINY, f"base optimizer=sgd lr=1 momentum=0.9 nesterov={word}")
        assert dict(groups.base)["nesterov"] is False

    def test_adafactors_eps_may_lack_one(self):
        groups = resolve_groups(TINY, "base optimizer=torch:adafactor eps=none,1e-3 lr=1")
        assert dict(groups.base)["eps"] == (None, 1e-3)


class TestFrozen:
    def test_the_second_phase(self):
        model = TinyNet()
        surgery.build_optimizer(model, "base optimizer=sgd lr=1\n!fc freeze")
        (warning,) = resolve_groups(model, "base optimizer=sgd lr=1\nfc lr*=2").warnings
        assert warning.startswith("the model has requires_grad off, and no rule a word, on 15")
        assert warning.endswith("`:all train` unfreezes them")
        ((_, message),) = problems(model, "base optimizer=sgd lr=1\nstem lr*=2\nfc lr*=3")
        assert "the model has requires_grad off there, and no rule says `train`" in message

    @pytest.mark.parametrize("rules", ["fc freeze\n:all lr*=0.1", "fc freeze\n:1d wd=0"])
    def test_broad_rules_may_reach_what_is_frozen(self, rules):
        resolve_groups(TINY, "base optimizer=sgd lr=1\n" + rules)

    def test_what_is_switched_off_further_down_is_a_note(self):
        groups = resolve_groups(TINY, "base optimizer=sgd lr=1\nfc lr*=2\nfc freeze")
        assert "line 2: 'fc lr*=2' has no effect: line 3 freezes it" in groups.warnings

    def test_nothing_trains(self):
        groups = resolve_groups(TINY, "base optimizer=sgd lr=1\n:1d wd=0\n:all freeze")
        assert groups.risks == ("nothing trains: every parameter is frozen",)

    def test_an_optional_rule_that_matches_nothing_is_noted(self):
        groups = resolve_groups(TINY, "base optimizer=sgd lr=1\n:all wd=0\n? layer9 lr=1")
        assert groups.warnings == ("line 3: '? layer9 lr=1' matches nothing here",)

    def test_integers_cannot_train(self):
        model = nn.Linear(2, 2)
        model.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
        ((_, message),) = problems(model, "codes train")
        assert message == "'codes train' has no effect: integers have no gradient"
        assert resolve_groups(model, "base lr=1").risks == ()


class Shared(nn.Module):
    """One block under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.b = self.a


class TestShared:
    def test_a_norm_answers_to_each_of_its_paths(self):
        assert resolve_groups(Shared(), "b.1 bn=eval").bn_eval_at(0) == ("a.1",)

    def test_scales_of_a_tied_parameter_compound_and_say_so(self):
        rules = "base optimizer=sgd lr=1\nembed lr*=2\nlm_head lr*=3\nbody wd=0"
        (warning,) = resolve_groups(TiedLanguageModel(), rules).warnings
        assert warning == (
            "embed.weight and lm_head.weight are one tied parameter: lr*=2 of line 2 and lr*=3 of "
            "line 3 both count"
        )
        resolved = resolve_groups(TiedLanguageModel(), ":all lr*=2\nlm_head lr*=3")
        assert resolved.risks == ()

    def test_hints_see_no_wrappers(self):
        model = nn.DataParallel(TinyNet())
        model.module.blocks.requires_grad = False
        model.module.requires_grad = False
        whole, blocks = resolve_groups(model, "base optimizer=sgd lr=1").risks
        assert "`:all freeze` would" in whole
        assert "`blocks freeze` would" in blocks

    def test_why_tells_of_norms(self):
        groups = resolve_groups(TINY, "base lr=1\n:norm bn=eval wd=0\nfc lr*=2")
        assert [f.action for f in why(groups, "bn.bias") if f.line > 1] == ["bn=eval", "wd=0"]
        assert [f.action for f in why(groups, "fc.bias") if f.line > 1] == ["lr*=2"]

    def test_until_when_a_norm_is_held(self):
        groups = resolve_groups(TINY, "bn unfreeze@3\nblocks.0 freeze")
        assert groups.to_dict()["bn_eval"] == [
            {"path": "bn", "until": 3},
            {"path": "blocks.0.1", "until": None},
        ]


class TestRaw:
    @pytest.mark.parametrize("rules", [None, 5, b"fc freeze", [1]])
    def test_no_rules(self, rules):
        with pytest.raises(RuleError, match="rules are a path, a text or its lines, not"):
            resolve_groups(TINY, rules)

    def test_lazy_parameters(self):
        with pytest.raises(SurgeryError, match="weight is lazy and has no shape yet"):
            resolve_groups(nn.LazyLinear(2), "")
