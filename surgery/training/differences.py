"""Where a saved run and the one that is to go on disagree."""

from __future__ import annotations

from collections.abc import Mapping


def first_difference(
    there: Mapping[str, object], here: Mapping[str, object], missing: str = "missing"
) -> str:
    """The first name of which two records say different things, with both; empty without one."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if not names:
        return ""
    name, more = names[0], f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
    return f"{name} is {there.get(name, missing)} there and {here.get(name, missing)} here{more}"
