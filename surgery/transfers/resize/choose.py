"""Which method a matched pair of tensors gets: the one that was named, or the first that fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from surgery.errors import SurgeryError
from surgery.specs import ModelSpec, TensorSpec, is_real
from surgery.transfers.resize import RESIZERS
from surgery.transfers.resize.options import Resize
from surgery.transfers.resize.resizer import Case, Fit, NoFit, Resizer
from surgery.transfers.selecting import names_selected, no_tensor
from surgery.transfers.step import Method, Step
from surgery.wording import first_lines

#: The source's name by the mapping's lines and its spec, and the target's tensor.
Pair: TypeAlias = tuple[str, TensorSpec, TensorSpec]
Found: TypeAlias = tuple[Method, str]


@dataclass(frozen=True)
class Choice:
    """The options of one plan. ``pairs`` are (source, target) of all names that were matched;
    ``sources`` are by their names after the mapping's lines.
    """

    options: tuple[Resize, ...]
    sources: Mapping[str, TensorSpec]
    target: ModelSpec
    pairs: tuple[tuple[TensorSpec, TensorSpec], ...]

    def named(self, pair: Pair) -> Found | None:
        """What the option that names both this tensor and a method makes of it, where it fits;
        also of a tensor of the same shape. Raises SurgeryError for two such options.
        """
        found = [option for option in self._of(pair[2]) if option.is_exact]
        if len(found) > 1:
            both = " and ".join(repr(option.text) for option in found)
            raise SurgeryError(f"{pair[2].name} is meant by {both}; one method takes a tensor")
        for option in found:
            fit = self._exactly(option, pair)
            if isinstance(fit, Fit):
                assert option.resizer is not None
                return _method(option.resizer, fit, named=True)
        return None

    def automatic(self, pair: Pair) -> Found | str:
        """What the first method that fits makes of a tensor of another shape, or why those of its
        kind do not fit.
        """
        why: list[str] = []
        if pair[1].shape == pair[2].shape:
            return ""
        for option in self._of(pair[2]):
            for resizer in [option.resizer] if option.resizer else RESIZERS.values():
                if option.is_exact or not (option.resizer or resizer.automatic):
                    continue
                fit = _decide(resizer, self._case(pair, option))
                if isinstance(fit, Fit):
                    return _method(resizer, fit, named=option.text != "auto")
                if fit.near:
                    why.append(f"{resizer.name}: {fit.why}")
        return "; ".join(dict.fromkeys(why))

    def _of(self, target: TensorSpec) -> list[Resize]:
        """The options that mean the tensor; those that name it first."""
        meant = self._meant
        named = [option for option in self.options if target.name in meant.get(option.text, ())]
        return [*named, *(option for option in self.options if option.selector is None)]

    @cached_property
    def _meant(self) -> Mapping[str, frozenset[str]]:
        named = [(each.text, each.selector) for each in self.options if each.selector]
        names = names_selected(self.target, (selector for _, selector in named))
        return {text: found for (text, _), found in zip(named, names, strict=True)}

    def _exactly(self, option: Resize, pair: Pair) -> Fit | NoFit:
        assert option.resizer is not None
        return _decide(option.resizer, self._case(pair, option))

    def _case(self, pair: Pair, option: Resize) -> Case:
        source_name, source, target = pair
        module = self.target.module_of(target.name)
        return Case(
            source=source,
            target=target,
            source_name=source_name,
            sources=self.sources,
            targets=self.target.by_name,
            types=module.types if module else (),
            widths=self._widths,
            last=self._last,
            settings=option.settings,
            named=option.is_exact,
        )

    @cached_property
    def _last(self) -> str:
        names = (tensor.name for tensor in reversed(self.target.tensors) if tensor.is_floating)
        return next(names, "").rpartition(".")[0]

    @cached_property
    def _widths(self) -> frozenset[tuple[int, int]]:
        changed = [
            [(old, new) for old, new in zip(source.shape, target.shape, strict=True)]
            for source, target in self.pairs
            if len(source.shape) == len(target.shape) and source.shape != target.shape
        ]
        produced = {sizes[0] for sizes in changed}
        consumed = {size for sizes in changed for size in sizes[1:]}
        return frozenset((old, new) for old, new in produced & consumed if old != new)

    def refuse_unused(self, steps: Sequence[Step]) -> None:
        """Raise SurgeryError for an option that fits nothing; ``auto`` may."""
        resized = [step for step in steps if step.method]
        for option in self.options:
            if option.text != "auto" and not any(self._took(option, step) for step in resized):
                raise SurgeryError(
                    f"resize {option.text!r} fits nothing; nothing was changed",
                    first_lines([*self._why_unused(option, steps)], 5),
                )

    def _took(self, option: Resize, step: Step) -> bool:
        assert step.method is not None
        named = option.resizer is None or option.resizer.name == step.method.name
        return named and option in self._of(step.target)

    def _why_unused(self, option: Resize, steps: Sequence[Step]) -> Iterator[str]:
        meant = [step for step in steps if option in self._of(step.target)]
        if not meant and option.selector:
            yield no_tensor(option.selector, self.target)
        for step in meant:
            if step.source is None:
                yield f"no source tensor was matched with {step.target.name}"
            elif option.resizer is None:
                if step.source.shape != step.target.shape:
                    yield f"{step.target.name}: {step.reason}"
            elif option.is_exact or step.source.shape != step.target.shape:
                fit = self._exactly(option, (step.source.name, step.source, step.target))
                yield f"{step.target.name}: {fit.why if isinstance(fit, NoFit) else step.reason}"
        if meant and option.resizer is None:
            yield f"what {option.text} selects has the same shape on both sides"


def _decide(resizer: Resizer, case: Case) -> Fit | NoFit:
    for spec in (case.source, case.target):
        if not spec.numel:
            return NoFit("there are no elements")
        if not is_real(spec.dtype):
            return NoFit(f"only real numbers are computed with, and it has {spec.dtype}")
    return resizer.decide(case)


def _method(resizer: Resizer, fit: Fit, *, named: bool) -> Found:
    settings = tuple(fit.settings.items())
    reference = fit.reference or resizer.reference
    return Method(resizer.name, reference, settings, fit.initial, named), fit.reason
