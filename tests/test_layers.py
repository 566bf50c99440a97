"""The picture of dependencies in README.md, held against the imports in the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("surgery/**/*.py"), *ROOT.glob("cli/**/*.py")])

#: What each part may import, besides itself and everything that stands below it. The lowest
#: first; parts of one line do not import each other unless ALLOWED says so.
LAYERS = [
    {"collapse", "collecting", "errors", "wrappers"},
    {"specs"},
    {"record"},
    {"checkpoint", "heads"},
    {"networks"},
    {"patterns"},
    {"matching"},
    {"transfers", "tuning"},
    {"optim", "proof", "training"},
    {"report"},
    {"surgery_cli"},
]
#: Imports that go sideways or upwards, each with its reason.
ALLOWED = {
    # str() of a value is its report, imported when it is asked for.
    ("checkpoint", "report"),
    ("networks", "report"),
    ("proof", "report"),
    ("training", "report"),
    ("transfers", "report"),
    ("tuning", "report"),
}


def part_of(module: str) -> str:
    names = module.split(".")
    return names[0] if names[0] == "surgery_cli" else names[1] if len(names) > 1 else "surgery"


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    relative = relative.relative_to("cli") if relative.parts[0] == "cli" else relative
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"surgery", "surgery_cli"}}


LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    part = part_of(module_of(path))
    if part == "surgery":  # the public names, resolved on first use
        return
    for imported in map(part_of, imports_of(path)):
        downwards = LEVEL[imported] < LEVEL[part]
        assert imported == part or downwards or (part, imported) in ALLOWED, imported


def test_transfer_and_tuning_do_not_know_each_other():
    assert not {("transfers", "tuning"), ("tuning", "transfers")} & ALLOWED


def test_every_allowance_is_used():
    used = {
        (part_of(module_of(path)), part_of(imported))
        for path in SOURCES
        for imported in imports_of(path)
    }
    assert used >= ALLOWED


@pytest.mark.parametrize(
    "statement",
    [
        "import surgery",
        "import surgery.checkpoint, surgery.tuning, surgery.heads, surgery.transfers",
        "import surgery.patterns, surgery.report.transfers, surgery.report.groups",
        "import surgery.networks.architectures, surgery.checkpoint.difference",
        "import surgery.training",
        "import surgery.networks.identification, surgery.networks.survey",
        "import surgery_cli.main",
        "from surgery_cli.main import surgery; surgery(['--version'], standalone_mode=False)",
        "from surgery_cli.main import surgery\ntry: surgery(['transfer', '--help'])\n"
        "except SystemExit: pass",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(statement):
    heavy = "{'torch', 'timm', 'torchvision', 'numpy', 'rich', 'safetensors'}"
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
