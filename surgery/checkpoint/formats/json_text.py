"""JSON as the formats have it: nothing is said twice, nothing is nested beyond all reason."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from surgery.wording import printable


def parse_json(text: str | bytes | bytearray, **options: Any) -> Any:
    """``json.loads`` that raises ValueError for whatever is wrong, a key that occurs twice too."""
    try:
        return json.loads(text, object_pairs_hook=_unique, **options)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {printable(counts.most_common(1)[0][0])} occurs twice")
    return made
