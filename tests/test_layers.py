"""The picture of dependencies in README.md, held against the imports in the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("surgery/**/*.py"), *ROOT.glob("cli/**/*.py")])

#: What each part may import, besides itself and everything that stands below it. The lowest
#: first; parts of one line do not import each other.
LAYERS = [
    {"collecting", "lazy", "showing", "states", "wording", "wrappers"},
    {"collapse", "errors"},
    {"json_values", "private_torch", "skeleton"},
    {"patterns", "specs"},
    {"class_rows", "head_names", "record"},
    {"checkpoint", "heads"},
    {"networks"},
    {"matching"},
    {"transfers", "tuning"},
    {"optim", "proof", "training"},
    {"report"},
    {"surgery_cli"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
MOST_LINES = 400


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    relative = relative.relative_to("cli") if relative.parts[0] == "cli" else relative
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def part_of(module: str) -> str:
    names = module.split(".")
    return names[0] if names[0] == "surgery_cli" else names[1] if len(names) > 1 else "surgery"


def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_in(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in it, for types alone and by its name too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in MODULES.keys() - {"surgery"}:
            yield str(node.value)  # for importlib; "surgery" is the name of the program


GRAPH = {
    module: {name for name in imports_in(parsed(module)) if name in MODULES and name != module}
    for module in MODULES
    if module != "surgery"  # the public names, resolved on first use
}


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_downwards(module):
    part = part_of(module)
    others = {name for name in GRAPH[module] if part_of(name) != part}
    assert not {name for name in others if LEVEL[part_of(name)] >= LEVEL[part]}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """What can be reached from itself, by taking away all that imports, or is imported by,
    nothing that is left.
    """
    left = {module: set(names) for module, names in graph.items()}
    while free := [m for m, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    while bound := [m for m in left if not any(m in names for names in left.values())]:
        for module in bound:
            del left[module]
    return [[module, *sorted(names & left.keys())] for module, names in left.items()]


def test_no_module_imports_itself_through_others():
    assert circles(GRAPH) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"], ["b", "a"]]


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_can_be_read(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_at_the_top_or_never(module):
    """What needs torch now and then imports a module of ours that has it at its top."""
    functions = (
        node for node in ast.walk(parsed(module)) if isinstance(node, ast.FunctionDef | ast.Lambda)
    )
    inside = {name for function in functions for name in imports_in(function)}
    assert not {name for name in inside if name.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    "statement",
    [
        "import surgery",
        "import surgery.checkpoint, surgery.tuning, surgery.transfers",
        "import surgery.patterns, surgery.report.transfers, surgery.report.groups",
        "import surgery.networks.blueprints, surgery.head_names, surgery.checkpoint.difference",
        "import surgery.training",
        "import surgery.networks.identification, surgery.networks.survey",
        "import surgery_cli.main",
        "from surgery_cli.main import surgery; surgery(['--version'], standalone_mode=False)",
        "from surgery_cli.main import surgery\ntry: surgery(['transfer', '--help'])\n"
        "except SystemExit: pass",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(statement):
    heavy = "{'torch', 'timm', 'torchvision', 'numpy', 'rich', 'safetensors', 'regex'}"
    code = f"{statement}\nimport sys; found = {heavy} & set(sys.modules)\nassert not found, found"
    paths = [str(ROOT), str(ROOT / "cli")]
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_every_public_name_can_be_had():
    import surgery

    for name in surgery.__all__:
        assert getattr(surgery, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        surgery.nothing  # noqa: B018
