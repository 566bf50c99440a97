"""Which adapter a matched pair of tensors gets: the one asked for, or the first that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from surgery.errors import SurgeryError, did_you_mean
from surgery.patterns import Subject, matches
from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers.plan import Adapt
from surgery.transfers.refusal import first_lines
from surgery.transfers.resize import ADAPTERS
from surgery.transfers.resize.adapter import Adapter, Case, Fit, NoFit, Settings
from surgery.transfers.resize.asked import Asked
from surgery.wrappers import unwrap_name


@dataclass
class Choice:
    """The adapters of one plan. ``pairs`` are (source, target) of all names that were matched;
    ``sources`` are by their names after renames. It keeps what was asked for and what became of
    it, for :meth:`refuse_unused`.
    """

    asked: Sequence[Asked]
    automatic: bool
    sources: Mapping[str, TensorSpec]
    target: ModelSpec
    pairs: Sequence[tuple[TensorSpec, TensorSpec]]
    _why: dict[str, list[str]] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def asked_for(self, target: TensorSpec) -> Asked | None:
        """The adapter that was named for the tensor. Raises SurgeryError for two of them."""
        if not self.asked:
            return None
        subject = _subject(target, self.target)
        found = [asked for asked in self.asked if matches(asked.selector, subject)]
        if len(found) > 1:
            both = " and ".join(repr(asked.text) for asked in found)
            raise SurgeryError(f"{target.name} is meant by {both}; one adapter takes a tensor")
        return found[0] if found else None

    def chosen(
        self, source_name: str, source: TensorSpec, target: TensorSpec, via: tuple[str, ...]
    ) -> Adapt | None:
        """The step of the adapter named for this tensor, where there is one and it fits."""
        asked = self.asked_for(target)
        if asked is None:
            return None
        case = self._case(source_name, source, target, asked.settings, chosen=True)
        decision = _decide(asked.adapter, case)
        if isinstance(decision, NoFit):
            self._why.setdefault(asked.text, []).append(f"{target.name}: {decision.why}")
            return None
        self._used.add(asked.text)
        return _step(asked.adapter, case, decision, via)

    def fitting(
        self, source_name: str, source: TensorSpec, target: TensorSpec, via: tuple[str, ...]
    ) -> Adapt | str:
        """The step of the first automatic adapter that fits, or why those of its kind do not."""
        if not self.automatic or source.shape == target.shape:
            return ""
        case = self._case(source_name, source, target, {}, chosen=False)
        why = []
        for adapter in ADAPTERS.values():
            decision = _decide(adapter, case) if adapter.automatic else NoFit("")
            if isinstance(decision, Fit):
                return _step(adapter, case, decision, via)
            if decision.near:
                why.append(f"{adapter.name}: {decision.why}")
        return "; ".join(why)

    def _case(
        self,
        source_name: str,
        source: TensorSpec,
        target: TensorSpec,
        settings: Settings,
        *,
        chosen: bool,
    ) -> Case:
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
            settings=settings,
            chosen=chosen,
        )

    @cached_property
    def _last(self) -> str:
        named = (tensor.name for tensor in reversed(self.target.tensors) if tensor.is_floating)
        return next(named, "").rpartition(".")[0]

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

    def refuse_unused(self) -> None:
        """Raise SurgeryError for an adapter that was asked for and fits nothing."""
        for asked in self.asked:
            if asked.text not in self._used:
                raise SurgeryError(
                    f"the adapter {asked.text!r} fits nothing; nothing was changed",
                    self._why_unused(asked),
                )

    def _why_unused(self, asked: Asked) -> list[str]:
        if why := self._why.get(asked.text):
            return first_lines(why, 5)
        selected = [
            tensor.name
            for tensor in self.target.tensors
            if matches(asked.selector, _subject(tensor, self.target))
        ]
        if selected:
            return [f"no source tensor was matched with {name}" for name in selected[:5]]
        segments = _names_and_paths(map(unwrap_name, self.target.by_name))
        near = did_you_mean(asked.selector.text, segments, 3)
        return [f"no tensor of the target is called {asked.selector}{near}"]


def _names_and_paths(names: Iterable[str]) -> list[str]:
    """Every name and every path above it: a pattern may mean either."""
    found: dict[str, None] = {}
    for name in names:
        while name:
            found[name] = None
            name = name.rpartition(".")[0]
    return list(found)


def _subject(tensor: TensorSpec, model: ModelSpec) -> Subject:
    module = model.module_of(tensor.name)
    types = module.types if module else ()
    return Subject((unwrap_name(tensor.name), tensor.name), types, frozenset(), frozenset())


def _decide(adapter: Adapter, case: Case) -> Fit | NoFit:
    for spec in (case.source, case.target):
        if not spec.numel:
            return NoFit("there are no elements")
        if not spec.is_floating or spec.dtype.startswith("complex"):
            return NoFit(f"only real numbers are computed with, and it has {spec.dtype}")
    return adapter.decide(case)


def _step(adapter: Adapter, case: Case, fit: Fit, via: tuple[str, ...]) -> Adapt:
    return Adapt(
        target=case.target,
        sources=(case.source,),
        adapter=adapter.name,
        reason=fit.reason,
        reference=fit.reference or adapter.reference,
        settings=tuple(fit.settings.items()),
        initial=fit.initial,
        chosen=case.chosen,
        via=via,
    )
