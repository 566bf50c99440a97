from pathlib import Path

import pytest

from surgery.errors import RuleError
from surgery.tuning import parse_rules, read_rules
from surgery.tuning.words import parse_value

EXAMPLE = """\
# a comment
model timm:resnet50        # and another
base optimizer=adamw lr=1e-3 wd=0.05 betas=0.9,0.999
base fused=true
default error

:all                  decay=0.75
:1d, **.bias & !fc    wd=0
/block [34] # not a comment/ & :bias lr*=0.1 momentum=0.8
? layer5              unfreeze@3
fc                    train lr=0.01 name=head
layer1 , bn1          freeze bn=train
"""


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(RuleError) as caught:
        parse_rules(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


class TestParse:
    def test_head_of_the_file(self):
        rules = parse_rules(EXAMPLE, path="rules.txt")
        assert (rules.path, rules.model, rules.optimizer) == ("rules.txt", "timm:resnet50", "adamw")
        assert [(key, value, rules.lines[key]) for key, value in rules.base.items()] == [
            ("lr", 1e-3, 3),
            ("weight_decay", 0.05, 3),
            ("betas", (0.9, 0.999), 3),
            ("fused", True, 4),
        ]
        assert rules.default == "error"
        others = {word: line for word, line in rules.lines.items() if word not in rules.base}
        assert others == {"model": 2, "optimizer": 3, "default": 5}

    def test_rules(self):
        rules = parse_rules(EXAMPLE).rules
        assert [(rule.line, rule.selector.text, rule.optional) for rule in rules] == [
            (7, ":all", False),
            (8, ":1d, **.bias & !fc", False),
            (9, "/block [34] # not a comment/ & :bias", False),
            (10, "layer5", True),
            (11, "fc", False),
            (12, "layer1 , bn1", False),
        ]
        assert [
            [(action.kind, action.attribute, action.value) for action in rule.actions]
            for rule in rules
        ] == [
            [("decay", "lr", 0.75)],
            [("set", "weight_decay", 0.0)],
            [("scale", "lr", 0.1), ("set", "momentum", 0.8)],
            [("when", "when", 3)],
            [("when", "when", "train"), ("set", "lr", 0.01), ("name", "name", "head")],
            [("when", "when", "frozen"), ("bn", "bn", "train")],
        ]

    @pytest.mark.parametrize(
        ("line", "selector"),
        [
            ("layer1&layer2 freeze", "layer1&layer2"),
            ("layer1 &layer2 freeze", "layer1 &layer2"),
            ("layer1& layer2 freeze", "layer1& layer2"),
            ("! layer1 freeze", "! layer1"),
            ("layer1,! layer2 freeze", "layer1,! layer2"),
            ("/a b/,/c d/ freeze", "/a b/,/c d/"),
            ("?layer1 freeze", "layer1"),
            ("?/a b/ freeze", "/a b/"),
            ("layer[34]/** freeze", "layer[34]/**"),
            (r"/a\/ b/ freeze", r"/a\/ b/"),
            ("model.layers lr*=0.1", "model.layers"),
            ("model lr*=0.1", "model"),
            ("default freeze", "default"),
            ("freeze freeze", "freeze"),
            ("\tlayer1\tfreeze\t#x", "layer1"),
        ],
    )
    def test_where_the_selector_ends(self, line, selector):
        (rule,) = parse_rules(line).rules
        assert rule.selector.text == selector

    def test_unfreeze_at_zero_is_train(self):
        (rule,) = parse_rules("fc unfreeze@0").rules
        assert rule.actions[0].value == "train"

    def test_set_then_scale_in_one_line(self):
        (rule,) = parse_rules("fc lr=1e-3 lr*=10").rules
        assert [action.kind for action in rule.actions] == ["set", "scale"]

    def test_nothing_is_fine(self):
        assert parse_rules("").rules == parse_rules("\n# only a comment\n").rules == ()

    def test_windows_line_ends_and_a_byte_order_mark(self):
        rules = parse_rules("\ufeffmodel timm:vit\r\nfc freeze\r\n")
        assert (rules.model, rules.lines) == ("timm:vit", {"model": 1})
        assert rules.rules[0].line == 2


class TestErrors:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("fc freze", "'freze' is no action; did you mean freeze?"),
            ("fc unfreze@3", "did you mean unfreeze@N?"),
            ("fc lr", "'lr' is no action"),
            ("fc", "expected an action after 'fc', as in `fc lr*=0.1`"),
            ("freeze fc", "expected a selector before 'freeze', as in `fc freeze`"),
            ("freeze", "expected a selector before 'freeze'"),
            ("lr=0.1", "expected a selector before 'lr=0.1'"),
            ("? freeze", "expected a selector before 'freeze'"),
            ("layer1 layer2 freeze", "put a comma between selectors, as in `layer1, layer2`"),
            ("fc lr = 0.1", "put no blanks around =, as in `lr=0.01`"),
            ("fc lr *= 0.1", "put no blanks around ="),
            ("fc lr= 0.1", "put no blanks around ="),
            ("base lr = 0.1", "put no blanks around ="),
            ("layer1 & freeze", "expected an action after 'layer1 & freeze'"),
            ("lr=0.1 lr=0.2 train", "expected a selector before 'lr=0.1'"),
            ("layer1 & lr=1", "lacks a name"),
            ("layer1,, fc lr=1", "lacks a name"),
            ("/layer1 lr=1", "that no / ends"),
            ("/(/ lr=1", "is no regular expression"),
            (":nrom lr=1", "did you mean :norm?"),
            ("fc lr=fast", "'lr=fast': expected a finite number from 0, found 'fast'"),
            ("fc lr=", "'lr=': expected a finite number from 0, found ''"),
            ("fc lr=-1", "'lr=-1': expected a finite number from 0, found '-1'"),
            ("fc lr=nan", "expected a finite number from 0, found 'nan'"),
            ("fc lr=1e999", "expected a finite number from 0, found '1e999'"),
            ("fc lr*=inf", "expected a finite number from 0, found 'inf'"),
            ("fc wd=-0.1", "expected a finite number from 0"),
            ("fc momentum=", "expected a value that is finite, found ''"),
            ("fc momentum=nan", "expected a value that is finite, found 'nan'"),
            ("fc eps=1e999", "expected a value that is finite, found '1e999'"),
            ("fc decay=0", "expected a number above 0 and up to 1, found '0'"),
            ("fc decay=1.5", "expected a number above 0 and up to 1, found '1.5'"),
            ("fc decay*=0.5", "decay is set with =, it cannot be scaled"),
            ("fc unfreeze@-1", "expected a whole number from 0, found '-1'"),
            ("fc unfreeze@soon", "expected a whole number from 0, found 'soon'"),
            ("fc bn=foo", "'bn=foo': found 'foo'; there are eval, train"),
            ("fc name=", "expected a name for the group"),
            ("fc lr=1 lr=2", "'lr=2' overwrites 'lr=1' of the same line"),
            ("fc lr*=2 lr=1", "'lr=1' overwrites 'lr*=2' of the same line"),
            ("fc freeze train", "'train' overwrites 'freeze' of the same line"),
            ("model", "expected one architecture after model, found nothing"),
            ("model a b", "expected one architecture after model, found a b"),
            ("default", "expected base or error after default, found nothing"),
            ("default erorr", "found erorr; did you mean error?"),
            ("base", "expected KEY=VALUE after base"),
            ("base lr", "expected KEY=VALUE in a base line, found 'lr'"),
            ("base lr*=2", "expected KEY=VALUE in a base line, found 'lr*=2'"),
            ("base optimizer=", "expected KEY=VALUE in a base line, found 'optimizer='"),
            ("base lr=fast", "expected a finite number from 0, found 'fast'"),
            ("base lr=1 lr=2", "lr was given in line 2 already"),
            ("base wd=1 weight_decay=2", "weight_decay was given in line 2 already"),
            ("base optimizer=sgd optimizer=adam", "optimizer was given in line 2 already"),
        ],
    )
    def test_line_and_message(self, line, message):
        ((number, found),) = problems(f"# first\n{line}\n")
        assert number == 2
        assert message in found

    def test_said_twice(self):
        text = "model a\nmodel b\ndefault base\ndefault error\nbase lr=1\nbase lr=2"
        assert problems(text) == [
            (2, "model was given in line 1 already"),
            (4, "default was given in line 3 already"),
            (6, "lr was given in line 5 already"),
        ]

    def test_every_problem_at_once_in_order(self):
        found = problems("fc freze lr=fast\nbase lr=-1 wd=x\n:nrom\n")
        assert [line for line, _ in found] == [1, 1, 2, 2, 3]

    def test_the_error_names_file_and_line(self):
        with pytest.raises(RuleError, match=r"^rules.txt:2: 'freze' is no action") as caught:
            parse_rules("\nfc freze", path="rules.txt")
        assert (caught.value.path, caught.value.line) == ("rules.txt", 2)


class TestRead:
    def test_a_file_by_path_or_name(self, tmp_path: Path):
        path = tmp_path / "rules.txt"
        path.write_text("fc freeze\n")
        for source in (path, str(path)):
            rules = read_rules(source)
            assert (rules.path, len(rules.rules)) == (str(path), 1)

    def test_a_file_with_an_equals_sign_in_its_name(self, tmp_path: Path):
        path = tmp_path / "lr=3.txt"
        path.write_text("fc freeze\n")
        assert read_rules(str(path)).path == str(path)

    @pytest.mark.parametrize(
        "source", ["fc lr=1", "fc freeze", "fc freeze\n", ["fc freeze"], ("fc freeze",)]
    )
    def test_text_and_lines(self, source):
        rules = read_rules(source)
        assert (rules.path, len(rules.rules)) == ("<rules>", 1)
        assert read_rules(rules) is rules

    def test_no_such_file(self, tmp_path: Path):
        with pytest.raises(RuleError, match="cannot be read: No such file"):
            read_rules(tmp_path / "rules.txt")
        with pytest.raises(RuleError, match="rules given as text have an action in them"):
            read_rules("rules.txt")

    def test_a_folder_and_a_binary_file(self, tmp_path: Path):
        with pytest.raises(RuleError, match="cannot be read: it is a folder"):
            read_rules(tmp_path)
        (tmp_path / "weights").write_bytes(b"\x80\x02\xff")
        with pytest.raises(RuleError, match="not UTF-8 text"):
            read_rules(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("5.", 5.0),
        (".5e-3", 0.0005),
        ("true", True),
        ("False", False),
        ("yes", True),
        ("On", True),
        ("no", False),
        ("off", False),
        ("none", None),
        ("'no'", "no"),
        ("'none'", "none"),
        ('"5"', "5"),
        ("0.9,0.999", (0.9, 0.999)),
        ("(0.9,0.999)", (0.9, 0.999)),
        ("0.9,", (0.9,)),
        ("1,none", (1, None)),
        ("match_rms_adamw", "match_rms_adamw"),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)
