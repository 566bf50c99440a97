"""Whether two networks compute the same, and if not, where they part."""

from __future__ import annotations

from collections import defaultdict

from surgery.collapse import patterns
from surgery.matching.code.comparison import Comparison
from surgery.report.tables import Report, Table, number
from surgery.wording import counted, percent_text


def comparison_report(found: Comparison) -> Report:
    """The verdict, what is made of what, every number that differs, and what is open."""
    tables = []
    if found.scalars:
        tables.append(_scalar_table(found))
    if found.open:
        tables.append(_open_table(found))
    notes = [] if found.difference is None else [f"they part at {found.difference}"]
    return Report([_verdict(found), _mapped(found)], tables, notes)


def _verdict(found: Comparison) -> str:
    if not found.same:
        share = percent_text(found.agreed)
        return f"two networks: {share} of what the second does with its parameters is the same"
    but = f", but for {counted(len(found.scalars), 'number')} in it" if found.scalars else ""
    return f"one network{but}: {found.proof}"


def _mapped(found: Comparison) -> str:
    made = sum(match.recipe is not None for match in found.mapping.values())
    text = f"{counted(len(found.mapping), 'tensor')} with an origin"
    if made:
        text += f", {made:,} of them made of parts or in another order"
    if found.zeros:
        text += f"; {counted(len(found.zeros), 'tensor')} zero in the first"
    return text


def _scalar_table(found: Comparison) -> Table:
    places: dict[tuple[str, float, float], list[str]] = defaultdict(list)
    for scalar in found.scalars:
        numbers = scalar.operator, scalar.source_value, scalar.target_value
        places[numbers].append(scalar.target)
    rows = [
        (operator, f"{one:g}", f"{other:g}", str(len(where)), where[0])
        for (operator, one, other), where in places.items()
    ]
    columns = ("operator", "first", "second", number("times"), "first in")
    return Table("numbers that differ", columns, rows, "odd")


def _open_table(found: Comparison) -> Table:
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in found.open.items():
        names[reason].append(name)
    rows = [(patterns(their), str(len(their)), why) for why, their in names.items()]
    return Table("open", ("second", number("tensors"), "why"), rows, "odd")
