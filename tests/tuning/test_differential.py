import pytest
import timm
from tiny_models import TiedLanguageModel, TinyNet, Wrapper

from surgery.errors import RuleError
from surgery.networks.describe import describe
from surgery.tuning import parse_rules, resolve_groups, why
from surgery.tuning.differential import geometric

TINY = describe(TinyNet())


def rates(model, rules: str) -> dict[str, float]:
    groups = resolve_groups(model, f"base optimizer=sgd lr=0.5\n{rules}")
    return {name: dict(g.hyper)["lr"] for g in groups.trained for name in g.param_names}


def problems(model, rules: str) -> list[tuple[int, str]]:
    with pytest.raises(RuleError) as caught:
        resolve_groups(model, rules)
    return [(problem.line, problem.message) for problem in caught.value.problems]


class TestSplit:
    def test_early_middle_final(self):
        found = rates(TINY, "split blocks fc lr=1e-7,1e-4,1e-2")
        assert found["stem.weight"] == found["bn.bias"] == 1e-7
        assert found["blocks.0.0.weight"] == found["blocks.2.1.bias"] == 1e-4
        assert found["fc.weight"] == found["fc.bias"] == 1e-2

    def test_points_inside_a_stage_and_a_single_parameter(self):
        found = rates(TINY, "split blocks.1 fc.bias lr=1,2,3")
        assert found["blocks.0.1.bias"] == 1
        assert found["blocks.1.0.weight"] == found["fc.weight"] == 2
        assert found["fc.bias"] == 3

    def test_a_real_model(self):
        model = describe(timm.create_model("resnet18", num_classes=3))
        found = rates(model, "split layer2 fc lr=1e-7,1e-4,1e-2")
        parts = {rate: {name.split(".")[0] for name in found if found[name] == rate}
                 for rate in (1e-7, 1e-4, 1e-2)}  # fmt: skip
        assert parts == {
            1e-7: {"conv1", "bn1", "layer1"},
            1e-4: {"layer2", "layer3", "layer4"},
            1e-2: {"fc"},
        }

    def test_wrappers_are_looked_through(self):
        wrapped = rates(describe(Wrapper(TinyNet())), "split blocks fc lr=1,2,3")
        assert wrapped["module.fc.weight"] == 3

    def test_what_goes_below_is_an_exception(self):
        found = rates(TINY, "split blocks fc lr=1,2,3\nblocks.2 lr=9\nbn lr*=0.5")
        assert (found["blocks.2.0.weight"], found["bn.weight"], found["fc.bias"]) == (9, 0.5, 3)

    def test_overwritten_as_a_whole(self):
        ((line, message),) = problems(TINY, "split blocks fc lr=1,2,3\n:all lr=1")
        assert line == 1
        assert "has no effect: overwritten by line 2" in message

    def test_it_names_every_parameter(self):
        assert resolve_groups(TINY, "base optimizer=sgd\ndefault error\nsplit fc lr=1,2").groups

    def test_why_tells_the_parameters_own_rate(self):
        groups = resolve_groups(TINY, "split blocks fc lr=1,2,3")
        last = why(groups, "blocks.0.0.weight")[-1]
        assert (last.line, last.action, last.value) == (1, "lr=1,2,3", 2)

    def test_the_report_says_how_it_was_read(self):
        assert "split blocks fc lr=1,2,3  split points" in str(
            resolve_groups(TINY, "split blocks fc lr=1,2,3")
        )

    def test_no_rate_is_taken_for_granted(self):
        groups = resolve_groups(TINY, "base optimizer=sgd\nsplit fc lr=1,2")
        assert groups.warnings == ()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("split fc blocks lr=1,2,3", "'blocks' does not come after 'fc'"),
            ("split fc fc lr=1,2,3", "'fc' does not come after 'fc'"),
            ("split stem fc lr=1,2,3", "nothing lies before 'stem'"),
            ("split block fc lr=1,2,3", "nothing called 'block'; did you mean blocks"),
            (
                "split blocks fc lr=1,2",
                "expected 3 learning rates, one more than split points, found 2",
            ),
            ("split block fc lr=1,2", "nothing called 'block'; did you mean blocks"),
            ("split fc lr=1,0", "expected a number above 0, found '0'"),
            ("split fc lr=1,-1", "found '-1'"),
            ("split fc lr=1,x", "expected a number above 0, found 'x'"),
            ("split fc lr=1,", "expected a number above 0, found ''"),
            ("split fc wd=1,2", "a split gives learning rates"),
            ("split fc", "expected POINT ... lr=RATE,RATE,... after split"),
            ("split lr=1,2", "expected POINT ... lr="),
            ("split", "found 'nothing'"),
            ("split blocks lr=1,2 fc", "expected POINT ... lr="),
        ],
    )
    def test_errors(self, line, message):
        ((number, told),) = problems(TINY, f"\n{line}")
        assert number == 2
        assert message in told

    def test_a_tied_parameter_lies_where_it_is_first(self):
        found = rates(describe(TiedLanguageModel()), "split body lr=1,2")
        assert found == {"embed.weight": 1, "body.weight": 2, "body.bias": 2}


class TestSpread:
    def test_lowest_first_and_the_ends_exactly(self):
        found = rates(TINY, ":all lr=1e-5..1e-1")
        stages = ["stem", "blocks.0.0", "blocks.1.0", "blocks.2.0", "fc"]
        assert [found[f"{stage}.weight"] for stage in stages] == pytest.approx(
            [1e-5, 1e-4, 1e-3, 1e-2, 1e-1], rel=1e-12
        )
        assert (found["bn.weight"], found["fc.weight"]) == (1e-5, 1e-1)

    def test_only_over_what_is_selected(self):
        found = rates(TINY, "blocks lr=1e-3..1e-1")
        assert [found[f"blocks.{i}.0.weight"] for i in range(3)] == [
            1e-3,
            pytest.approx(1e-2),
            1e-1,
        ]
        assert found["fc.weight"] == 0.5

    def test_by_timms_own_depths(self):
        model = describe(timm.create_model("vit_tiny_patch16_224", num_classes=3))
        found = rates(model, ":all lr=1e-6..1e-2")
        assert (found["cls_token"], found["head.weight"]) == (1e-6, 1e-2)
        assert len(set(found.values())) == 14

    def test_scales_and_exceptions_below(self):
        found = rates(TINY, ":all lr=1e-3..1e-1\n:bias lr*=2\nfc lr=7")
        assert (found["fc.weight"], found["blocks.0.0.bias"]) == (
            7,
            2 * found["blocks.0.0.weight"],
        )

    def test_downwards(self):
        found = rates(TINY, "stem, fc lr=1..0.1")
        assert (found["stem.weight"], found["fc.weight"]) == (1, 0.1)

    def test_guessed_stages_are_said(self):
        groups = resolve_groups(TINY, "base optimizer=sgd\n:all lr=1e-3..1e-1")
        assert "does not say how deep its layers are" in groups.warnings[0]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("fc lr=1e-3..1e-1", "only one is selected: lr=0.001 or lr=0.1 says which"),
            (":all lr=0..1", "expected a number above 0, found '0'"),
            (":all lr=1..-1", "found '-1'"),
            (":all lr=1..", "expected a number above 0, found ''"),
            (":all lr=1..2..3", "expected a number above 0, found '2..3'"),
            ("fcc lr=1..2", "fcc"),
        ],
    )
    def test_errors(self, line, message):
        ((number, told),) = problems(TINY, f"\n{line}")
        assert number == 2
        assert message in told

    def test_an_optional_line_may_match_nothing(self):
        assert rates(TINY, "? layer9 lr=1..2")["fc.weight"] == 0.5

    def test_two_names_of_a_tied_parameter_disagree(self):
        model = describe(TiedLanguageModel())
        ((line, told),) = problems(model, "base lr=1\nembed, body lr=1e-3..1e-1\nlm_head lr=1e-2")
        assert line == 3
        assert "disagrees with 'lr=1e-3..1e-1' in line 2" in told


@pytest.mark.parametrize("rate", [1e-4, 3e-5, 0.1, 0.123456789012345678])
@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_equal_ends_are_one_rate(rate, count):
    assert geometric(rate, rate, count) == (rate,) * count


def test_rates_between_are_the_numbers_one_would_write():
    expected = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    assert geometric(1e-7, 1.0, 8) == expected


def test_geometric():
    assert geometric(1e-4, 1e-2, 2) == (1e-4, 1e-2)
    assert geometric(1.0, 16.0, 5) == pytest.approx((1, 2, 4, 8, 16), rel=1e-14)


def test_a_module_called_split():
    (rule,) = parse_rules("split.** lr=1").rules
    assert rule.points == ()
