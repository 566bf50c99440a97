"""Which method a matched pair of tensors gets: the one that was named, or the first that fits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from surgery.errors import SurgeryError
from surgery.specs import ModelSpec, TensorSpec, is_real
from surgery.transfers.resize import RESIZERS
from surgery.transfers.resize.resizer import Case, Fit, Resize, Resizer
from surgery.transfers.selecting import names_selected, no_tensor
from surgery.transfers.step import Method, Step
from surgery.wording import first_lines, shape_text

#: The source's name by the mapping's lines and its spec, and the target's tensor.
Pair: TypeAlias = tuple[str, TensorSpec, TensorSpec]


@dataclass(frozen=True)
class Choice:
    """The options of one plan. ``pairs`` are (source, target) of all names that were matched;
    ``sources`` are by their names after the mapping's lines.
    """

    options: tuple[Resize, ...]
    sources: Mapping[str, TensorSpec]
    target: ModelSpec
    pairs: tuple[tuple[TensorSpec, TensorSpec], ...]

    def find(self, pair: Pair) -> tuple[Method, str] | str:
        """The method that makes the target's tensor, and what it does; else why none of its kind
        does. A tensor of the same shape is made by the method that an option names for it alone.

        Raises SurgeryError for two such options.
        """
        _, source, target = pair
        options = [option for option, names in self._meant if target.name in names]
        exact = [option for option in options if option.is_exact]
        if len(exact) > 1:
            both = " and ".join(repr(option.text) for option in exact)
            raise SurgeryError(f"{target.name} is meant by {both}; one method takes a tensor")
        why: list[str] = []
        automatic = [resizer for resizer in RESIZERS.values() if resizer.automatic]
        for option in exact if source.shape == target.shape else options:
            for resizer in [option.resizer] if option.resizer else automatic:
                fit = self._fit(resizer, option, pair)
                if isinstance(fit, Fit):
                    named = option.text != "auto"
                    reference = fit.reference or resizer.reference
                    settings = tuple(fit.settings.items())
                    method = Method(resizer.name, reference, settings, fit.initial, named)
                    return method, fit.reason
                if fit:
                    why.append(f"{resizer.name}: {fit}")
        return "; ".join(dict.fromkeys(why))

    @cached_property
    def _meant(self) -> Sequence[tuple[Resize, Collection[str]]]:
        """Every option with the target's names that it means, those that say more first."""
        options = sorted(self.options, key=lambda each: (not each.selector, not each.resizer))
        selected = iter(names_selected(self.target, [x.selector for x in options if x.selector]))
        return [(x, next(selected) if x.selector else self.target.by_name) for x in options]

    def _fit(self, resizer: Resizer, option: Resize, pair: Pair) -> Fit | str:
        source_name, source, target = pair
        if not (_is_computed_with(source) and _is_computed_with(target)):
            return ""
        module = self.target.module_of(target.name)
        return resizer.decide(
            Case(
                source=source,
                target=target,
                source_name=source_name,
                sources=self.sources,
                targets=self.target.by_name,
                types=module.types if module else (),
                widths=self._widths,
                settings=option.settings,
                named=option.is_exact,
            )
        )

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
        for option, names in self._meant:
            meant = [step for step in steps if step.target.name in names]
            taken = {step.method.name for step in meant if step.method}
            fits = option.resizer.name in taken if option.resizer else taken
            if option.text != "auto" and not fits:
                raise SurgeryError(
                    f"resize {option.text!r} fits nothing; nothing was changed",
                    first_lines([*self._why_unused(option, meant)], 5),
                )

    def _why_unused(self, option: Resize, meant: Iterable[Step]) -> Iterable[str]:
        why = []
        for step in meant:
            if step.source is None:
                why.append(f"no source tensor was matched with {step.target.name}")
            elif option.is_exact or step.source.shape != step.target.shape:
                why.append(f"{step.target.name}: {self._why(option, step, step.source)}")
        if not meant and option.selector:
            words = () if option.resizer else RESIZERS
            return [no_tensor(option.selector, self.target, words)]
        return why or [f"what {option.text} selects has the same shape on both sides"]

    def _why(self, option: Resize, step: Step, source: TensorSpec) -> str:
        if option.resizer is None:
            return step.reason
        fit = self._fit(option.resizer, option, (source.name, source, step.target))
        if isinstance(fit, Fit):
            return step.reason
        old, new = (f"{spec.dtype} {shape_text(spec.shape)}" for spec in (source, step.target))
        purpose = f"{option.resizer.name} is for {option.resizer.purpose}, of real numbers"
        return fit or f"{purpose}: source {old}, target {new}"


def _is_computed_with(spec: TensorSpec) -> bool:
    return bool(spec.numel) and is_real(spec.dtype) and "float4" not in spec.dtype
