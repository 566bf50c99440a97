import json
from pathlib import Path

import pytest
from tiny_models import TinyNet, randomise

import surgery

SUPPORT = Path(__file__).parent.parent / "support" / "tiny_models.py"
TINY, TIED = f"{SUPPORT}:TinyNet", f"{SUPPORT}:TiedLanguageModel"


@pytest.fixture
def run(surgery_command):
    return surgery_command


@pytest.fixture
def rules(tmp_path):
    """Write rules.txt; returns what writes another one."""

    def write(*lines):
        (tmp_path / "rules.txt").write_text("\n".join(lines) + "\n")

    return write


def groups_of(result):
    assert result.exit_code == 0, result.stderr
    return {g["name"]: g for g in json.loads(result.stdout)["groups"]}


def test_a_model_line_is_enough(run, rules):
    rules("model timm:resnet18", "base optimizer=sgd lr=0.1", "fc lr=1")
    result = run("groups", "--rules", "rules.txt")
    assert result.exit_code == 0
    first, total, *_ = result.stdout.splitlines()
    assert first == "timm:resnet18"
    assert total.startswith("SGD: 11,689,512 of 11,689,512 parameters train, in 2 groups")


def test_the_argument_beats_the_model_line(run, rules):
    rules("model timm:resnet18", "base optimizer=sgd lr=0.1", "fc lr=1")
    result = run("groups", TINY, "--rules", "rules.txt")
    assert result.stdout.startswith(f"{TINY}\n")


def test_what_a_transfer_recorded_reaches_the_rules(run, rules, tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    assert run("transfer", "old.pt", TINY, "-o", "new.safetensors").exit_code == 0
    rules("base optimizer=sgd", ":new lr=1", ":loaded lr=0.1", "type:BatchNorm* lr*=0.5")
    groups = groups_of(run("groups", "new.safetensors", "--rules", "rules.txt", "--json"))
    rates = {n: dict(g["hyper"])["lr"] for g in groups.values() for n in g["param_names"]}
    assert rates["fc.weight"] == 1
    assert rates["stem.weight"] == 0.1
    assert rates["bn.weight"] == 0.05


def test_a_plain_checkpoint_tells_what_it_would_load(run, rules, tmp_path):
    surgery.save(randomise(TinyNet(7)), tmp_path / "old.pt")
    rules("base optimizer=sgd lr=0.1", ":new lr=1")
    result = run("groups", TINY, "--from", "old.pt", "--json")
    rates = {g["hyper"]["lr"]: g["param_names"] for g in groups_of(result).values()}
    assert rates[1] == ["fc.weight", "fc.bias"]


def test_a_file_without_a_record_has_names_and_shapes_alone(run, rules, tmp_path):
    surgery.save(TinyNet(), tmp_path / "plain.pt")
    rules("base optimizer=sgd lr=0.1", "fc, :norm lr=1")
    result = run("groups", "plain.pt")
    assert "names and shapes alone, no module types" in result.stdout
    rules("base optimizer=sgd lr=0.1", "type:Linear lr=1")
    result = run("groups", "plain.pt")
    assert result.exit_code == 2
    assert "rules.txt:2:" in result.stderr


def test_why(run, rules):
    rules("base optimizer=sgd lr=0.1 wd=0.1", "blocks lr*=0.5", ":1d wd=0")
    result = run("groups", TINY, "--why", "blocks.1.0.bias")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["blocks.1.0.bias"]
    assert [line[0] for line in lines[-2:]] == ["2", "3"]
    assert lines[-2][-2:] == ["lr", "0.05"]
    fired = json.loads(run("groups", TINY, "--why", "blocks.1.0.bias", "--json").stdout)["fired"]
    assert [(f["line"], f["attribute"], f["value"]) for f in fired][-2:] == [
        (2, "lr", 0.05),
        (3, "weight_decay", 0.0),
    ]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("blocks.1", ["blocks.1.0.weight", "blocks.1.0.bias", "blocks.1.1.weight"]),
        ("blocks.[12].0 & :bias", ["blocks.1.0.bias", "blocks.2.0.bias"]),
        (r"/\.0\.bias$/, fc.bias", ["blocks.0.0.bias", "blocks.1.0.bias", "fc.bias"]),
        (":head & :bias", ["fc.bias"]),
        ("type:Linear & !:1d", ["fc.weight"]),
        ("module.fc.bias", ["module.fc.bias"]),
    ],
)
def test_why_of_a_selector(run, rules, selector, names):
    rules("base optimizer=sgd lr=0.1 wd=0.1", "blocks lr*=0.5", ":1d wd=0")
    told = json.loads(run("groups", TINY, "--why", selector, "--json").stdout)
    found = {each["parameter"]: each["fired"] for each in told["parameters"]}
    assert found.keys() >= set(names)
    assert ("fired" in told) == (len(found) == 1)
    alone = json.loads(run("groups", TINY, "--why", names[-1], "--json").stdout)["fired"]
    assert found[names[-1]] == alone


def test_why_of_parameters_of_one_fate_is_one_table(run, rules):
    rules("base optimizer=sgd lr=0.1 wd=0.1", "blocks lr*=0.5", ":1d wd=0")
    result = run("groups", TINY, "--why", "blocks.[12].0, fc.bias")
    assert result.stdout.splitlines()[0] == "blocks.[12].0, fc.bias"
    tables = [line for line in result.stdout.splitlines() if "rules applied, in order" in line]
    assert [line.partition(": ")[0] for line in tables] == [
        "blocks.{1,2}.0.weight",
        "blocks.{1,2}.0.bias",
        "fc.bias",
    ]


def test_why_of_a_transfers_states_needs_one(run, rules):
    rules("base optimizer=sgd lr=0.1")
    result = run("groups", TINY, "--why", ":new")
    assert result.exit_code == 2
    assert "--from" in result.stderr


def test_why_of_nothing(run, rules):
    rules("base optimizer=sgd lr=0.1")
    result = run("groups", TINY, "--why", "blocks.1.0.bais")
    assert result.exit_code == 2
    assert "did you mean blocks.1.0.bias" in result.stderr


class TestInit:
    def test_it_writes_rules_that_work(self, run, tmp_path):
        result = run("groups", "timm:resnet18", "--init")
        assert result.exit_code == 0
        text = (tmp_path / "rules.txt").read_text()
        assert result.stdout == text
        assert "model timm:resnet18" in text
        assert run("groups", "--rules", "rules.txt").exit_code == 0

    def test_a_rules_file_is_never_lost(self, run, rules, tmp_path):
        rules("fc lr=1")
        result = run("groups", TINY, "--init")
        assert result.exit_code == 2
        assert "rules.txt exists already" in result.stderr
        assert (tmp_path / "rules.txt").read_text() == "fc lr=1\n"
        assert run("groups", TINY, "--init", "--force").exit_code == 0

    def test_the_empty_file_that_a_redirection_makes_is_free(self, run, tmp_path):
        (tmp_path / "rules.txt").touch()
        assert run("groups", TINY, "--init").exit_code == 0
        assert (tmp_path / "rules.txt").read_text()

    def test_it_needs_a_model(self, run):
        result = run("groups", "--init")
        assert result.exit_code == 2
        assert "--init needs a MODEL" in result.stderr


#: Every error of the grammar: what the file says, the line that is named, and the message.
ERRORS = [
    (TINY, ["fc lr=1", "fcc lr=1"], 2, "'fcc' matches nothing; did you mean fc?"),
    (TINY, ["fc, fcc lr=1"], 1, "'fcc' matches nothing; did you mean fc?"),
    (TINY, ["!fcc lr=1"], 1, "'fcc' matches nothing; did you mean fc?"),
    (TINY, ["fc"], 1, "expected an action after 'fc', as in `fc lr*=0.1`"),
    (TINY, ["fc freze"], 1, "'freze' is no action; did you mean freeze?"),
    (TINY, ["fc lr=-1"], 1, "'lr=-1': expected a finite number from 0, found '-1'"),
    (TINY, ["fc lr=nan"], 1, "'lr=nan': expected a finite number from 0, found 'nan'"),
    (TINY, ["fc lr=fast"], 1, "'lr=fast': expected a finite number from 0, found 'fast'"),
    (TINY, ["fc lr=1 lr=2"], 1, "'lr=2' overwrites 'lr=1' of the same line"),
    (TINY, ["fc lr=1", "fc lr=2"], 1, "'fc lr=1' has no effect: overwritten by line 2"),
    (TINY, ["fc weight_deacy=1"], 1, "AdamW has no key 'weight_deacy'; did you mean weight_decay?"),
    (TINY, [":new lr=1"], 1, "':new' asks what a transfer loaded"),
    (TINY, [":nrom lr=1"], 1, "':nrom' is unknown; did you mean :norm?"),
    (TINY, ["type:Linaer lr=1"], 1, "'type:Linaer' matches nothing; did you mean Linear?"),
    (
        TINY,
        ["default error", "fc lr=1"],
        1,
        "no rule names 15 parameters (stem.weight, bn.weight, bn.bias and 12 more) of 17",
    ),
    (TINY, ["default maybe"], 1, "expected base or error after default, found maybe"),
    (TINY, ["default base", "default error"], 2, "default was given in line 1 already"),
    (TINY, ["/(/ lr=1"], 1, "'/(/' is no regular expression: missing ) at position 2"),
    (TINY, ["fc & & bn lr=1"], 1, "'fc & & bn' lacks a name, a glob or a :word beside , & or !"),
    (TINY, ["!!fc lr=1"], 1, "'!!fc' has more than one !: one leaves out, two cancel"),
    (TINY, ["fc decay=2"], 1, "'decay=2': expected a number above 0 and up to 1, found '2'"),
    (
        TINY,
        ["fc unfreeze@-1"],
        1,
        "'unfreeze@-1': expected a whole number from 0, found '-1'",
    ),
    (
        TINY,
        ["fc unfreeze@soon"],
        1,
        "'unfreeze@soon': expected a whole number from 0, found 'soon'",
    ),
    (
        TINY,
        ["fc bn=eval"],
        1,
        "'bn=eval' has no effect: 'fc' means no norm with running statistics",
    ),
    (TINY, ["bn bn=maybe"], 1, "'bn=maybe': found 'maybe'; there are eval, train"),
    (TINY, ["base lr=1 lr=2"], 1, "lr was given in line 1 already"),
    (TINY, ["base lr=-1"], 1, "'lr=-1': expected a finite number from 0, found '-1'"),
    (
        TINY,
        ["base optimizer=adamq"],
        1,
        "no optimizer is called 'adamq', neither torch's nor timm's",
    ),
    (TINY, ["base betas=2,3"], 1, "AdamW cannot be built: Invalid beta parameter at index 0: 2"),
    (
        TINY,
        ["base optimizer=sgd lr=1 nesterov=maybe"],
        1,
        "nesterov: expected true or false, found 'maybe'",
    ),
    (TINY, ["base lrr=1"], 1, "AdamW has no key 'lrr'; did you mean lr?"),
    (
        TINY,
        ["model timm:resnet18", "model timm:resnet34", "fc lr=1"],
        2,
        "model was given in line 1 already",
    ),
    (TINY, ["fc freeze", "fc lr=1"], 2, "'fc lr=1' has no effect: line 1 freezes it"),
    (TINY, ["fc name="], 1, "'name=': expected a name for the group after name="),
    (
        TIED,
        ["embed lr=1", "lm_head lr=2"],
        2,
        "lm_head.weight and embed.weight are one tied parameter: 'lr=2' here disagrees",
    ),
    (
        TINY,
        ["split fc blocks lr=1,2,3"],
        1,
        "split points go with the model's order, and 'blocks' does not come after 'fc'",
    ),
    (
        TINY,
        ["split fc lr=1"],
        1,
        "'lr=1': expected 2 learning rates, one more than split points, found 1",
    ),
    (TINY, ["fc lr=1e-3..0"], 1, "'lr=1e-3..0': expected a number above 0, found '0'"),
    (TINY, ["schedule cosin"], 1, "no schedule is called 'cosin'; did you mean cosine?"),
    (
        TINY,
        ["schedule sgdr T_0=0"],
        1,
        "T_0: expected a whole number from 1, or 3epochs, found '0'",
    ),
    (
        TINY,
        ["schedule step step_size=1", "schedule step step_size=2"],
        2,
        "schedule was given in line 1 already",
    ),
    (TINY, ["layer1 layer2 freeze"], 1, "put a comma between selectors"),
    (TINY, ["fc lr = 1"], 1, "put no blanks around =, as in `lr=0.01` and `lr*=0.1`"),
    (TINY, ["fc foo=1"], 1, "AdamW has no key 'foo'"),
    (TINY, ["{a,b} lr=1"], 1, "'{a,b}': braces belong to a /regular expression/; a glob has [34]"),
]


@pytest.mark.parametrize(
    ("model", "lines", "line", "message"),
    [pytest.param(*row, id="; ".join(row[1])) for row in ERRORS],
)
def test_errors_of_the_rules(run, rules, model, lines, line, message):
    rules(*lines)
    result = run("groups", model)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert any(
        text.lstrip().removeprefix("error: ").startswith(f"rules.txt:{line}: ") and message in text
        for text in result.stderr.splitlines()
    ), result.stderr
    error = json.loads(run("groups", model, "--json").stdout)["error"]
    assert error["kind"] == "RuleError"
    assert line in [problem["line"] for problem in error["problems"]]


def test_a_model_line_that_nobody_knows_has_its_line(run, rules):
    rules("# mine", "model timm:resnet81", "fc lr=1")
    result = run("groups")
    assert result.exit_code == 2
    assert "rules.txt:2: timm has no architecture 'resnet81'; did you mean" in result.stderr


def test_errors_of_reading_and_of_meaning_come_together(run, rules):
    rules("layer5 freeze", "blocks frezze", "stem lr=-1")
    result = run("groups", TINY)
    assert result.exit_code == 2
    assert [f"rules.txt:{line}:" in result.stderr for line in (1, 2, 3)] == [True] * 3


def test_no_model_and_no_rules(run, rules):
    result = run("groups")
    assert result.exit_code == 2
    assert "there is no rules.txt; `surgery groups MODEL --init" in result.stderr
    rules("fc lr=1")
    result = run("groups")
    assert result.exit_code == 2
    assert "no model is named" in result.stderr
