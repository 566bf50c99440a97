"""Stages under DistributedDataParallel: what it synchronises is decided when it wraps.

DDP collects the parameters that require a gradient at that moment, and never looks again. A
parameter that was frozen then and trains later keeps each process's own gradient, without a
word, and the replicas drift apart. One way works, and it is the only one that is let through
where a rule says ``unfreeze@N``::

    model = DistributedDataParallel(model, find_unused_parameters=True)    # everything trains
    optimizer = surgery.build_optimizer(model, "rules.txt")                # freezes
    stages = surgery.build_stages(model, "rules.txt", optimizer=optimizer)

Wrapped first, every parameter is collected; with ``find_unused_parameters`` DDP looks, step by
step, which of them have a gradient (without it the second step raises, and ``static_graph``
raises at the first unfreezing). Stages of a model that is wrapped anew after every unfreezing
are built on the bare model.
"""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from surgery.errors import StageError
from surgery.private_torch import synchronised_by
from surgery.tuning import ParamGroups

_THE_WAY = (
    "wrap first, with everything trainable: DistributedDataParallel(model, "
    "find_unused_parameters=True), then build_optimizer and build_stages on what it returns"
)


def refuse_unsynchronised(model: nn.Module, groups: ParamGroups) -> None:
    """Raise StageError where a DDP wrapper would leave what is unfrozen later unsynchronised."""
    if not any(isinstance(group.when, int) for group in groups.groups):
        return
    for wrapper in (m for m in model.modules() if isinstance(m, DistributedDataParallel)):
        if wrapper.static_graph:
            raise StageError(f"DDP with static_graph raises at the first unfreezing: {_THE_WAY}")
        if not wrapper.find_unused_parameters:
            raise StageError(
                f"DDP without find_unused_parameters raises once something is frozen: {_THE_WAY}"
            )
        _refuse_uncollected(model, wrapper, groups)


def _refuse_uncollected(
    model: nn.Module, wrapper: DistributedDataParallel, groups: ParamGroups
) -> None:
    collected, inside = {*map(id, synchronised_by(wrapper))}, {id(p) for p in wrapper.parameters()}
    trained = {name for group in groups.trained for name in group.param_names}
    missing = [
        name
        for name, parameter in model.named_parameters()
        if name in trained and id(parameter) in inside - collected
    ]
    if missing:
        raise StageError(
            f"DDP does not synchronise {len(missing)} parameters that are to train, the first is "
            f"{missing[0]}: they were frozen when it wrapped the model; {_THE_WAY}"
        )
