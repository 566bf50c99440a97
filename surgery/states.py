"""What becomes of a target's tensor: the words that plans, records, rules and reports share."""

from __future__ import annotations

#: ``loaded`` moved, bit for bit but for a cast; ``computed`` by arithmetic on the source's own
#: tensors; ``resized`` to another shape by a known method; ``fresh`` with its initial values;
#: ``open``: not decided, and fresh as long as nobody decides it.
STATES = ("loaded", "computed", "resized", "fresh", "open")

#: What files of version 0.1.0 say.
FORMER = {"adapted": "resized"}
