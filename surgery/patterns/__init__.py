r"""The one language in which a line of text means names: globs, regular expressions and kinds.

::

    selector := conj (',' conj)*         conj := ['!']atom ('&' ['!']atom)*
    atom     := glob | /regex/ | type:GLOB | :all :norm :bias :1d :head :stem
              | :new :loaded :computed :resized
    pairing  := (glob | /regex/) '->' text

The tokens of a glob are the same everywhere: ``*`` and ``?`` stay within one segment, ``**``
crosses dots (as a whole segment it may stand for none), ``[34]`` and ``[!ab]`` are one character
of a set or one that is not in it, and never a dot. Bare text with a character that no name or
glob has (``^ $ \ ( ) | +``) is a regular expression, as ``/.../`` is; which of these a text is,
and whether it can be read, is decided in :mod:`~surgery.patterns.pattern` alone.

A *selector* is held against whole names from their root, and a path covers its subtree:
``layer1`` is layer1 and all below it, never ``layer10``. ``/`` may stand for the dot. A regular
expression is found anywhere in the name. ``type:`` asks for the class of the module that owns
the tensor, or a base of that class. An atom is held against a whole parameter, so a tied one
counts under any of its names, and ``!lm_head`` leaves it out even where ``embed`` is the name
that ``named_parameters`` shows.

The left side of a *pairing* means a run of whole segments wherever it stands in a name, and the
run is rewritten; what each ``*``, ``**``, ``?`` and set stood for goes where the stars of the
right side are. There a ``*`` stands for one character at least.

Nothing here knows a model, a file or a transfer: :mod:`surgery.networks.selection` says what a
model answers, and :mod:`surgery.matching.lines` what a line does.
"""

from surgery.patterns.globs import has_wildcards
from surgery.patterns.pairings import Pairing, Rewriting, Run, read_pairing
from surgery.patterns.pattern import Pattern, end_of_regex, is_plain, names_meant, read_pattern
from surgery.patterns.selectors import STATUS_WORDS, Selector, parse_selector
from surgery.patterns.subjects import Meaning, Subject, Subjects, why_nothing

__all__ = [
    "STATUS_WORDS",
    "Meaning",
    "Pairing",
    "Pattern",
    "Rewriting",
    "Run",
    "Selector",
    "Subject",
    "Subjects",
    "end_of_regex",
    "has_wildcards",
    "is_plain",
    "names_meant",
    "parse_selector",
    "read_pairing",
    "read_pattern",
    "why_nothing",
]
