r"""``left -> right``: which runs of a name's segments are meant, and what they become.

::

    encoder -> backbone                   # whole segments, anywhere in the name
    layers.*.attn -> blocks.*.attention   # what each wildcard stands for is carried over
    ^blocks_(\d+)\. -> blocks.\1.         # a regular expression, with its groups
    /(?i)^bn/ -> norm                     # or between slashes

A match begins and ends at a dot or at an end of the name: ``layer1`` never touches ``layer10``,
and ``mlp`` never ``cpb_mlp``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from surgery.errors import SelectorError
from surgery.patterns.globs import has_wildcards, run_to_regex, wildcards
from surgery.patterns.pattern import Pattern, check_text, read_pattern
from surgery.wording import shortened

_STARS = re.compile(r"\*+")
#: Where a match of a regular expression may begin, and end.
_BEGIN, _END = r"(?:^|(?<=\.)|(?=\.))", r"(?:$|(?=\.)|(?<=\.))"
#: A regular expression that means one name, or those that begin with its segments.
_ANCHORED = re.compile(r"\^((?:[\w\-]|\\[.\-])+)(\$?)")

#: Where a run begins and ends, and what it becomes.
Run = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Pairing:
    r"""A left side, and the right side as written.

    One that is ``anchored`` means the text of its body at the beginning of a name alone
    (``^layers\.0``), one that is ``whole`` nothing longer; such need no regular expression.
    """

    left: Pattern
    right: str
    anchored: bool = False
    whole: bool = False

    @property
    def segments(self) -> tuple[str, ...]:
        """Segments that a name has which the left side is in; empty where none is certain."""
        if self.left.kind == "regex" and not self.anchored:
            return ()
        parts = self.left.body.split(".")
        return tuple(part for part in parts if part and not has_wildcards(part))


def read_pairing(left: str, right: str, *, carries: bool = True) -> Pairing:
    """Read both sides.

    Unless it ``carries``, the right side is the same for all that the left side means. Raises
    SelectorError where the left side cannot be read, or the right side has other wildcards or
    groups than it.
    """
    check_text(right)
    if "\\" not in right and (anchored := _ANCHORED.fullmatch(left)):
        name = anchored[1].replace("\\", "")
        pattern = Pattern(left, "regex", name, guessed=True)
        return Pairing(pattern, right, anchored=True, whole=bool(anchored[2]))
    pattern = read_pattern(left)
    if pattern.kind == "regex":
        from surgery.patterns.regexes import BoundedRegex

        BoundedRegex(pattern.body, left).check_template(right)
        return Pairing(pattern, right)
    carried, stars = wildcards(pattern.body), len(_STARS.findall(right))
    if carries and carried != stars:
        raise SelectorError(
            f"{shortened(left)!r} has {carried} '*' and its replacement {stars}: what each *, **, "
            "? and [ ] stands for is carried over to one *; write a regular expression with ( ) "
            "for more"
        )
    return Pairing(pattern, right)


class Rewriting:
    """One run of a pairing over any number of names; regular expressions have a bound for all."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        left = pairing.left
        if pairing.anchored or left.kind == "name":
            self.runs = self._runs_of_name
        elif left.kind == "glob":
            self._glob = re.compile(run_to_regex(left.body))
            self._parts = _STARS.split(pairing.right)
            self.runs = self._runs_of_glob
        else:
            from surgery.patterns.regexes import BoundedRegex

            self._regex = BoundedRegex(left.body, left.text, begin=_BEGIN, end=_END)
            self.runs = self._runs_of_regex

    def _runs_of_name(self, name: str) -> Iterator[Run]:
        """By the dots around it, of which an end of the name is one unless it has its own."""
        text, right = self.pairing.left.body, self.pairing.right
        before, after = not text.startswith("."), not text.endswith(".")
        wanted, padded = f"{'.' * before}{text}{'.' * after}", f".{name}."
        last = len(padded) - (not after)
        at = padded.find(wanted, not before, last)
        while at >= 0:
            begin, end = at + before - 1, at + before - 1 + len(text)
            longer = begin > 0 or (self.pairing.whole and end < len(name))
            if not (self.pairing.anchored and longer):
                yield begin, end, right
            at = padded.find(wanted, end + 1, last)

    def _runs_of_glob(self, name: str) -> Iterator[Run]:
        at = 0
        while at <= len(name) and (found := self._glob.match(name, at)):
            _, *carried = found.groups()
            # Segments that ** stands for have a dot each; the right side has its own.
            texts = (text.removesuffix(".") for text in carried)
            rest = zip(texts, self._parts[1:], strict=False)
            yield found.start(1), found.end(), self._parts[0] + "".join(a + b for a, b in rest)
            at = max(found.end(), at + 1)

    def _runs_of_regex(self, name: str) -> Iterator[Run]:
        for found in self._regex.matches(name):
            yield found.start(), found.end(), found.expand(self.pairing.right)
