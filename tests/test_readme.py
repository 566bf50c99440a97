"""What README says can be typed: every option, name, line, rule and file in it is there."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import click
import pytest
from surgery_cli.main import surgery as command_line

import surgery
from surgery.matching.lines.mapping import parse_mapping
from surgery.patterns import parse_selector
from surgery.tuning.rules import read_rules

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)\n```", README, re.DOTALL)


def below(heading):
    """The text blocks of a section."""
    section = README.partition(f"\n{heading}\n")[2].partition("\n##")[0]
    return re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)


def commands():
    context = click.Context(command_line)
    return {
        name: command_line.get_command(context, name)
        for name in command_line.list_commands(context)
    }


def test_options_are_those_of_a_command():
    known = {o for command in commands().values() for p in command.params for o in p.opts}
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert found - known == set()
    assert {"--resize", "--fresh", "--mapping", "--min-loaded", "--hint"} <= found


def test_every_command_is_in_the_list():
    (listed,) = below("## The command line")
    assert set(re.findall(r"^surgery (\w+)", listed, re.MULTILINE)) == commands().keys()


def test_public_names_are_there():
    for dotted in set(re.findall(r"(?<![\w/])surgery((?:\.[A-Za-z_]\w*)+)", README)):
        found, path = surgery, "surgery"
        for name in dotted.split(".")[1:]:
            path = f"{path}.{name}"
            found = getattr(found, name, None) or importlib.import_module(path)


def test_keywords_of_a_transfer_are_named():
    keywords = inspect.signature(surgery.plan_transfer).parameters.keys() - {"source", "target"}
    assert [keyword for keyword in keywords if f"`{keyword}=`" not in README] == []


@pytest.mark.parametrize("block", blocks("python"))
def test_python_can_be_read(block):
    ast.parse(block)


def test_lines_of_mappings_can_be_read():
    names, recipes, printed = *below("### Mappings"), *below("### From another implementation")
    assert len(parse_mapping(names).renames) == 4
    assert len(parse_mapping(recipes).recipes) == 14
    assert len(parse_mapping(printed).recipes) == 2


@pytest.mark.parametrize("heading", ["## 3. Groups and the optimizer", "## 4. Schedules"])
def test_rules_can_be_read(heading):
    assert read_rules(below(heading)[0]).rules


def test_patterns_can_be_read():
    (table,) = below("### Patterns")
    for line in table.splitlines():
        for text in re.split(r"\s{4,}", line.strip())[:-1]:
            assert parse_selector(text).union, text


def test_files_are_there():
    for path in re.findall(r"\]\(([\w./]+)\)|`((?:examples|fixtures|docs)/[\w./]+)`", README):
        assert (ROOT / "".join(path)).is_file()


def test_the_picture_of_the_sources_names_what_is_there():
    (picture,) = below("## How it is built")
    folders = []
    for line in picture.splitlines():
        indent, names = re.match(r"( *)(.*?)(?:  |$)", line).groups()
        del folders[len(indent) // 2 :]
        for name in names.split(", "):
            path = ROOT.joinpath(*folders, name)
            assert path.exists(), path
        folders.append(names)
