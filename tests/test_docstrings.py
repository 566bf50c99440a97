"""What docstrings refer to is there: modules and names that moved leave no dead reference."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = re.compile(r":(?:mod|func|class|data|exc):`(?:[^`<]*<)?~?(surgery[\w.]*)>?`")
SOURCES = sorted([*ROOT.glob("surgery/**/*.py"), *ROOT.glob("cli/**/*.py")])


def resolves(reference):
    """A module, or a name in the longest part of it that is a module."""
    parts = reference.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found is not None
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_references_resolve(path):
    found = set(REFERENCE.findall(path.read_text(encoding="utf-8")))
    assert [reference for reference in sorted(found) if not resolves(reference)] == []
