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
    trained = {name for group in groups.trained for name in group.param_names}
    for wrapper in (m for m in model.modules() if isinstance(m, DistributedDataParallel)):
        if wrapper.static_graph or not wrapper.find_unused_parameters:
            raise StageError(
                "DDP with static_graph, or without find_unused_parameters, raises once something "
                f"is frozen or unfrozen: {_THE_WAY}"
            )
        uncollected = {*wrapper.parameters()} - {*synchronised_by(wrapper)}
        missing = [n for n, p in model.named_parameters() if n in trained and p in uncollected]
        if missing:
            raise StageError(
                f"DDP does not synchronise {len(missing)} parameters that are to train, the first "
                f"is {missing[0]}: they were frozen when it wrapped the model; {_THE_WAY}"
            )
