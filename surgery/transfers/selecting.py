"""Which tensors of a target selectors mean: by name, by kind, by module type and by state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from surgery.errors import did_you_mean
from surgery.networks.selection import Answers
from surgery.patterns import Selector, Subjects
from surgery.specs import ModelSpec
from surgery.wrappers import paths_of, unwrap_name


def names_selected(
    target: ModelSpec,
    selectors: Sequence[Selector],
    heads: Sequence[str] | None = None,
    status: Mapping[str, str] | None = None,
) -> list[frozenset[str]]:
    """For each selector the names of the tensors that it means.

    ``heads`` are the paths of the head's layers, ``status`` every tensor's state; both are None
    where nothing tells them. Raises SelectorError for a selector that asks what is not known.
    """
    answers = Answers(target, status, heads)
    for selector in selectors:
        answers.check(selector)
    subjects = Subjects(answers.tensors() if selectors else ())
    meant = (subjects.meant_by(selector).indices for selector in selectors)
    return [frozenset(target.tensors[at].name for at in indices) for indices in meant]


def no_tensor(selector: Selector, target: ModelSpec, words: Iterable[str] = ()) -> str:
    """One line for a selector that means no tensor of the target, with what may be meant: a path,
    or one of the ``words`` that might stand there.
    """
    paths = (path for name in target.by_name for path in paths_of(unwrap_name(name)))
    near = did_you_mean(selector.text, dict.fromkeys((*words, *paths)), 3)
    return f"no tensor of the target is called {selector.text!r}{near}"
