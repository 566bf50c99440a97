"""Build a model without paying for the initial values that nobody will read.

Inside :class:`DeferredInit` every fill of a tensor (``normal_``, ``uniform_``, ``zero_``, and the
arithmetic on it that follows, as in ``trunc_normal_``) is written down instead of done. Whatever
reads such a tensor first makes it happen, so constructors that compute from what they have
filled see the right values; what nobody has read by the end is filled on request, or never.
Operations are seen by a dispatch mode; what goes around operations to the memory itself
(``numpy()``, ``tolist()``, pickling) by a function mode, after which that memory is never
deferred again.

Each fill draws from a generator of its own, seeded by ``seed`` and by its place in the
constructor. So a tensor's initial value depends on the architecture and the seed alone, and not
on which other tensors were loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surgery.private_torch import (
    TO_MEMORY,
    DispatchMode,
    Operator,
    memory_of,
    tree_leaves,
    writes_to_itself,
)

#: Elements below which a fill happens at once, since it costs nothing.
WORTH_DEFERRING = 1024


class DeferredInit(DispatchMode):
    """A context in which tensors are filled when they are read.

    >>> with DeferredInit(seed=0) as init:
    ...     model = torchvision.models.resnet50()
    >>> init.fill([model.fc.weight, model.fc.bias])  # the others hold no values yet
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._fills = 0
        self._waiting: dict[int, list[Callable[[], object]]] = {}
        self._filling = False
        self._escaped: dict[int, torch.UntypedStorage] = {}
        self._watch = _WatchMemory(self._let_go)

    def __enter__(self) -> DeferredInit:
        # What a constructor draws outside of fills (torch.randn(...) * 0.02) follows the seed
        # too, and leaves the caller's random state as it was.
        self._fork = torch.random.fork_rng(devices=[])
        self._fork.__enter__()
        torch.manual_seed(self._seed)
        super().__enter__()  # type: ignore[no-untyped-call]
        self._watch.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._watch.__exit__(*exc_info)  # type: ignore[no-untyped-call]
        super().__exit__(*exc_info)  # type: ignore[no-untyped-call]
        self._fork.__exit__(*exc_info)

    def fill(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give these tensors their initial values now."""
        for tensor in tensors:
            self._fill_now(tensor)

    def __torch_dispatch__(
        self,
        func: Operator,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._filling or func.is_view:  # that reads nothing
            return func(*args, **kwargs)
        if _fills_itself(func, args, kwargs):
            self._fill_or_defer(args[0], self._seeded(func, args, kwargs))
            return args[0]
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._fill_now(leaf)
        return func(*args, **kwargs)

    def _fill_or_defer(self, tensor: torch.Tensor, run: Callable[[], object]) -> None:
        memory = memory_of(tensor)
        if memory in self._waiting:
            self._waiting[memory].append(run)
        elif tensor.numel() >= WORTH_DEFERRING and memory not in self._escaped:
            self._waiting[memory] = [run]
        else:
            run()

    def _seeded(
        self, func: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], object]:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return lambda: func(*args, **kwargs)
        self._fills += 1
        seed = (self._seed * 0x9E3779B1 + self._fills) % 2**63

        def run() -> None:
            with torch.random.fork_rng(devices=[]):
                # What is filled lies on the processor. torch.manual_seed would also note a seed
                # for every device, with a traceback, which takes longer than most fills.
                torch.default_generator.manual_seed(seed)
                func(*args, **kwargs)

        return run

    def _let_go(self, tensor: torch.Tensor) -> None:
        """The tensor's memory is in other hands: fill it now and write to it at once later."""
        # Kept, or another tensor's memory could come to be taken for it.
        self._escaped[memory_of(tensor)] = tensor.untyped_storage()
        self._fill_now(tensor)

    def _fill_now(self, tensor: torch.Tensor) -> None:
        waiting = self._waiting.pop(memory_of(tensor), ())
        self._filling = True
        try:
            with torch.no_grad():
                for run in waiting:
                    run()
        finally:
            self._filling = False


class _WatchMemory(TorchFunctionMode):
    """Reports tensors whose memory is about to be read without any operation."""

    def __init__(self, report: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in TO_MEMORY and isinstance(args[0], torch.Tensor):
            self._report(args[0])
        return func(*args, **(kwargs or {}))


def _fills_itself(func: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """In-place ops whose only tensor is the one they write: the result needs nothing else."""
    return (
        writes_to_itself(func)
        and args[0].device.type == "cpu"
        and args[0].layout == torch.strided
        and kwargs.get("generator") is None  # its draws depend on those made from it before
        and sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))) == 1
    )
