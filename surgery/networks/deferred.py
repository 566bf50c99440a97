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

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch._ops import OpOverload


#: Elements below which a fill happens at once, since it costs nothing.
WORTH_DEFERRING = 1024

#: Methods of a tensor that hand its memory to somebody who reads without operations.
_TO_MEMORY = frozenset(
    {
        "__array__",
        "__deepcopy__",
        "__dlpack__",
        "__reduce_ex__",
        "data_ptr",
        "numpy",
        "storage",
        "tolist",
        "untyped_storage",
        "_typed_storage",
    }
)


class DeferredInit(TorchDispatchMode):
    """A context in which tensors are filled when they are read.

    ``defer=False`` runs every fill at once, with the same values: what tests compare against.

    >>> with DeferredInit(seed=0) as init:
    ...     model = torchvision.models.resnet50()
    >>> init.fill([model.fc.weight, model.fc.bias])  # the others hold no values yet
    """

    def __init__(self, seed: int = 0, *, defer: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._defer = defer
        self._fills = 0
        self._waiting: dict[int, list[Callable[[], object]]] = {}
        self._settling = False
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
            self._settle(tensor)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._settling or _is_view(func):
            return func(*args, **kwargs)
        if _fills_itself(func, args, kwargs):
            self._fill_or_defer(args[0], self._seeded(func, args, kwargs))
            return args[0]
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._settle(leaf)
        return func(*args, **kwargs)

    def _fill_or_defer(self, tensor: torch.Tensor, run: Callable[[], object]) -> None:
        memory = _memory(tensor)
        if memory in self._waiting:
            self._waiting[memory].append(run)
        elif self._defer and tensor.numel() >= WORTH_DEFERRING and memory not in self._escaped:
            self._waiting[memory] = [run]
        else:
            run()

    def _seeded(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
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
        """The tensor's memory is in other hands: settle it now and write to it at once later."""
        # Kept, or another tensor's memory could come to be taken for it.
        self._escaped[_memory(tensor)] = tensor.untyped_storage()
        self._settle(tensor)

    def _settle(self, tensor: torch.Tensor) -> None:
        waiting = self._waiting.pop(_memory(tensor), ())
        self._settling = True
        try:
            with torch.no_grad():
                for run in waiting:
                    run()
        finally:
            self._settling = False


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
        if getattr(func, "__name__", "") in _TO_MEMORY and isinstance(args[0], torch.Tensor):
            self._report(args[0])
        return func(*args, **(kwargs or {}))


def _memory(tensor: torch.Tensor) -> int:
    """Which memory a tensor shows; views share it, and the waiting fills keep it alive."""
    return int(tensor.untyped_storage()._cdata)


def _is_view(func: OpOverload) -> bool:
    """Ops that only look at the same memory in another way; they read nothing."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info and not r.alias_info.is_write for r in returns)


def _fills_itself(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """In-place ops whose only tensor is the one they write: the result needs nothing else."""
    schema = func._schema.arguments
    writes_first = bool(schema) and bool(schema[0].alias_info and schema[0].alias_info.is_write)
    return (
        writes_first
        and schema[0].name == "self"
        and args[0].device.type == "cpu"
        and args[0].layout == torch.strided
        and kwargs.get("generator") is None  # it has draws of its own, in the order they are asked
        and sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))) == 1
        and func._schema.name.endswith("_")
        and not _changes_shape(func)
    )


def _changes_shape(func: OpOverload) -> bool:
    """``resize_``, ``t_``, ``unsqueeze_`` and their like change the tensor, not its values."""
    return torch.Tag.inplace_view in func.tags or func._schema.name == "aten::resize_"
