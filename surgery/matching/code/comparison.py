"""Are two networks one? What each number of the one is in the other, or where they part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import nn

from surgery.errors import SurgeryError
from surgery.matching.code.completion import complete, open_parameters, unused_parameters
from surgery.matching.code.difference import FirstDifference, first_difference
from surgery.matching.code.fingerprints import rounded
from surgery.matching.code.folding import NoRecipe, recipe_of
from surgery.matching.code.origins import OPEN
from surgery.matching.code.program import Parameter, Program
from surgery.matching.code.trace import (
    Arguments,
    has_rounded_tables,
    leaves_of,
    record,
    stand_ins,
    trace,
)
from surgery.matching.code.unify import Scalar, Unification, unify
from surgery.matching.matches import Match
from surgery.matching.recipes.recipe import Recipe
from surgery.matching.recipes.writing import recipe_to_dict
from surgery.networks.architectures import find_architecture
from surgery.networks.building import build
from surgery.networks.inputs import examples
from surgery.private_torch import tree_map
from surgery.showing import Shown
from surgery.specs import TensorSpec
from surgery.wording import shortened

#: As close as this, by the size of the largest output, is the same.
PROVEN = 1e-9
#: The same where one of both networks rounds its tables to float32.
PROVEN_ROUNDED = 1e-6

SIDES = ("the first network", "the second network")
#: What a network is called with: a tensor, a tuple of arguments, or a dict of keywords.
Inputs = Any


@dataclass(frozen=True, slots=True)
class CodeProof:
    """Both networks, run again with other random weights that the mapping brings from one to the
    other: the largest difference of an output, by the size of the largest one.
    """

    difference: float
    shown: str
    rounded: bool = False

    @property
    def holds(self) -> bool:
        return self.difference <= (PROVEN_ROUNDED if self.rounded else PROVEN)

    def __str__(self) -> str:
        tables = ", with tables rounded to float32" if self.rounded else ""
        return f"outputs differ by {self.difference:.1e} on {self.shown}{tables}"


@dataclass(frozen=True, slots=True)
class ScalarDifference:
    """An operator of both networks with another number in it: an eps."""

    operator: str
    source: str
    target: str
    source_value: float
    target_value: float

    def __str__(self) -> str:
        return (
            f"{self.operator}: {self.source_value:g} in {self.source}, "
            f"{self.target_value:g} in {self.target}"
        )


@dataclass(frozen=True)
class Comparison(Shown):
    """What two networks have in common.

    ``same`` says that they compute the same but for the numbers in ``scalars``; it is proven by
    ``proof``. ``mapping`` says by target name how each tensor is made of the source's, decided by
    what both compute, and ``zeros`` are target names that the source does without: without a
    proof both hold what was equal up to ``difference``. ``open`` are target names that stay open,
    with the reason. ``agreed`` is the share of the target's uses of parameters that have their
    counterpart.
    """

    same: bool
    mapping: Mapping[str, Match]
    zeros: tuple[str, ...]
    difference: FirstDifference | None
    open: Mapping[str, str]
    scalars: tuple[ScalarDifference, ...] = ()
    proof: CodeProof | None = None
    agreed: float = 1.0

    def __bool__(self) -> bool:
        return self.same

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "same": self.same,
            "mapping": {
                name: {
                    "source": match.source,
                    "recipe": recipe_to_dict(match.recipe) if match.recipe else None,
                    "evidence": [*match.evidence],
                }
                for name, match in self.mapping.items()
            },
            "zeros": [*self.zeros],
            "difference": self.difference.to_dict() if self.difference else None,
            "open": dict(self.open),
            "scalars": [str(x) for x in self.scalars],
            "proof": str(self.proof) if self.proof else None,
            "agreed": self.agreed,
        }


def compare(a: nn.Module | str, b: nn.Module | str, *, inputs: Inputs | None = None) -> Comparison:
    """Whether two networks compute the same, whatever their weights: ``a`` is the source, ``b``
    the target, each a module or the name of an architecture.

    Both are run on one input with random weights in float64 and followed operator by operator;
    no name is read. ``inputs`` are a tensor, a tuple of arguments or a dict of keywords for both,
    or a list of two of these; where they are None an input that both take is looked for. Neither
    network is changed.

    Raises :class:`~surgery.errors.SurgeryError` where no input suits both.

    >>> surgery.compare("torchvision:resnet50", "timm:resnet50").same
    True
    """
    source, target = (build(find_architecture(x)) if isinstance(x, str) else x for x in (a, b))
    models = source, target
    arguments, shown, programs = _traced(models, inputs)
    found = _attempt(models, arguments, shown, programs, coarse=False)
    if not found.same and any(map(has_rounded_tables, models)):
        with rounded():
            again = _attempt(models, arguments, shown, programs, coarse=True)
        found = again if again.same else found
    return found


def _traced(
    models: tuple[nn.Module, nn.Module], inputs: Inputs | None
) -> tuple[tuple[Arguments, Arguments], str, tuple[Program, Program]]:
    """Both programs on an input that both take, with what it is called."""
    problems = []
    for arguments, shown in _inputs(models, inputs):
        programs: list[Program] = []
        for side, model, its, seed in zip(SIDES, models, arguments, (1, 2), strict=True):
            try:
                programs.append(trace(model, its, seed))
            except Exception as error:  # anybody's code may fail in any way
                problems.append(f"{side} on {shown}: {type(error).__name__}: {error}")
                break
            if not programs[-1].outputs:
                problems.append(f"{side} on {shown}: no output depends on the input")
                break
        else:
            one, other = programs
            shapes = [{x.shape for x in program.outputs} for program in programs]
            return arguments, shown, (one.giving(shapes[1]), other.giving(shapes[0]))
    if inputs is not None:
        raise SurgeryError("the given inputs= do not run", [shortened(x) for x in problems])
    raise SurgeryError(
        "no input was found that both networks take; give a tensor, a tuple of arguments or a dict "
        "of keywords by inputs=, or a list of two where each network takes its own",
        [shortened(x) for x in problems],
    )


def _inputs(
    models: tuple[nn.Module, nn.Module], inputs: Inputs | None
) -> Iterator[tuple[tuple[Arguments, Arguments], str]]:
    if inputs is not None:
        pair = inputs if isinstance(inputs, list) else [inputs, inputs]
        if len(pair) != 2:
            raise SurgeryError(
                f"inputs= is a tensor, a tuple, a dict of keywords or a list of two of them; "
                f"found a list of {len(pair)}"
            )
        one, other = map(_arguments, pair)
        yield (one, other), "the given input"
        return
    for example in examples(models):
        one, other = (Arguments((example.tensor,), example.keywords(x)) for x in models)
        yield (one, other), example.text


def _arguments(given: Inputs) -> Arguments:
    if isinstance(given, Mapping):
        return Arguments((), _wide(dict(given)))
    return Arguments(_wide(given if isinstance(given, tuple) else (given,)))


def _wide(value: Any) -> Any:
    """Floating-point inputs in float64."""
    return tree_map(
        lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, value
    )


def _attempt(
    models: tuple[nn.Module, nn.Module],
    arguments: tuple[Arguments, Arguments],
    shown: str,
    programs: tuple[Program, Program],
    *,
    coarse: bool,
) -> Comparison:
    found = unify(*programs)
    followed = complete(found)
    proof = None if found.stopped else _prove(found, models, arguments, shown, coarse=coarse)
    left = {**open_parameters(found), **_unread(found)}
    same = proof is not None and proof.holds and not left and not unused_parameters(found)
    difference = None if same else first_difference(found)
    if not same:
        found.forget_doubts()
        left |= open_parameters(found)
    mapping, zeros, unsaid = _mapping(found, followed, models)
    uses = found.target.uses.values()
    return Comparison(
        same,
        mapping,
        zeros,
        difference,
        {**left, **unsaid},
        tuple(map(_scalar, found.scalars)),
        proof if same else None,
        sum(x in found.target.matched and x not in found.doubts for x in uses) / max(len(uses), 1),
    )


def _prove(
    found: Unification,
    models: tuple[nn.Module, nn.Module],
    arguments: tuple[Arguments, Arguments],
    shown: str,
    *,
    coarse: bool,
) -> CodeProof | None:
    """Run both again as they are, with other weights; None where no output can be compared."""
    source, target = found.source.program, found.target.program
    weights = torch.cat([x.reshape(-1) for x in stand_ins(leaves_of(models[0]), 77)])
    known = found.origins.of != OPEN
    brought = torch.where(known, found.origins.numbers(found.origins.of, weights), target.weights)
    numbers = {(x.target.name, x.target.place): x.source_number for x in found.scalars}
    ours = record(models[0], arguments[0], source.parameters, weights)
    theirs = record(models[1], arguments[1], target.parameters, brought, numbers=numbers)
    differences = [
        min(_difference(ours.recorded[one], theirs.recorded[other]) for one in candidates)
        for other in theirs.giving(x.shape for x in source.outputs).outputs
        if (candidates := [x for x in ours.outputs if x.shape == other.shape])
    ]
    return CodeProof(max(differences), shown, coarse) if differences else None


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """By the size of the largest number, in the order of axes in which they are nearest; infinite
    where one is no number and the other is one.
    """
    one, other = (x if x.is_complex() else x.double() for x in (one, other))
    finite = one.abs()[one.isfinite()]
    size = float(finite.max()) if finite.numel() else 0.0
    orders = [x for x in permutations(range(one.dim())) if one.permute(x).shape == other.shape]
    return min(_gap(one.permute(order), other) for order in orders) / (size or 1.0)


def _gap(one: torch.Tensor, other: torch.Tensor) -> float:
    gaps = (one - other).abs().masked_fill(one == other, 0.0)  # infinities may be equal
    return float(gaps.nan_to_num(nan=torch.inf).max())


def _unread(found: Unification) -> dict[str, str]:
    program = found.target.program
    return {
        program.parameter_of(int(use.elements.reshape(-1)[0])).name: reason
        for use, reason in found.failures.items()
        if use.elements is not None
        and use.elements.numel()
        and int(use.elements.reshape(-1)[0]) >= 0
        and (found.origins.of[use.elements[use.elements >= 0]] == OPEN).any()
    }


def _mapping(
    found: Unification, followed: Mapping[str, str], models: tuple[nn.Module, nn.Module]
) -> tuple[dict[str, Match], tuple[str, ...], dict[str, str]]:
    """The recipes of all tensors whose elements have an origin, those that are zero, and why others
    have none.
    """
    source = found.source.program
    specs = [TensorSpec.of(name, tensor) for name, tensor in leaves_of(models[0]).items()]
    mapping: dict[str, Match] = {}
    zeros: list[str] = []
    left: dict[str, str] = {}
    for parameter in found.target.program.parameters:
        origins = found.origins.of[parameter.first : parameter.first + parameter.numel]
        if (origins == OPEN).any():
            continue
        try:
            recipe = recipe_of(origins.view(parameter.shape).numpy(), source.parameters, specs)
        except NoRecipe as problem:
            left[parameter.name] = str(problem)
            continue
        if not recipe.sources:
            zeros.append(parameter.name)
        else:
            mapping[parameter.name] = _match(parameter, recipe, followed.get(parameter.name, ""))
    return mapping, tuple(zeros), left


def _match(parameter: Parameter, recipe: Recipe, followed: str) -> Match:
    evidence = (
        ("what both networks compute", followed) if followed else ("what both networks compute",)
    )
    return Match(
        parameter.name,
        recipe.sources[0].name,
        recipe=None if recipe.is_copy else recipe,
        evidence=evidence,
        tier="code",
    )


def _scalar(found: Scalar) -> ScalarDifference:
    return ScalarDifference(
        found.target.name,
        str(found.source.place),
        str(found.target.place),
        found.source_number,
        found.target_number,
    )
