"""Two gloo processes on the CPU: what is unfrozen later is synchronised, or refused."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import surgery
from surgery.errors import StageError

RULES = "base optimizer=sgd lr=0.1 momentum=0.9\n0 unfreeze@2\n1 unfreeze@1"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))


def batch(rank: int, step: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(100 * rank + step))


def equal_everywhere(values: list[torch.Tensor]) -> bool:
    mine = torch.cat([value.flatten() for value in values])
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    return all(torch.equal(one, mine) for one in gathered)


def trained_as_documented(rank: int) -> list[list[object]]:
    model = DistributedDataParallel(network(), find_unused_parameters=True)
    optimizer = surgery.build_optimizer(model, RULES)
    stages = surgery.build_stages(model, RULES, optimizer=optimizer)
    told = []
    for epoch in range(4):
        stages.start_epoch(epoch)
        model.train()
        for step in range(2):
            optimizer.zero_grad()
            model(batch(rank, 2 * epoch + step)).square().sum().backward()
            grads = [p.grad for p in stages.trained_parameters()]
            same = all(grad is not None for grad in grads) and equal_everywhere(grads)
            optimizer.step()
            told.append([len(grads), same, equal_everywhere(list(model.parameters()))])
    return told


def refusals(rank: int) -> dict[str, str]:
    frozen = network()
    frozen[0].requires_grad_(False)
    models = {
        "plain": DistributedDataParallel(network()),
        "static": DistributedDataParallel(network(), static_graph=True),
        "frozen": DistributedDataParallel(frozen, find_unused_parameters=True),
    }
    told = {}
    for name, model in models.items():
        before = [p.requires_grad for p in model.parameters()]
        with pytest.raises(StageError) as caught:
            surgery.build_stages(model, RULES)
        told[name] = str(caught.value)
        assert [p.requires_grad for p in model.parameters()] == before
    surgery.build_stages(models["plain"], "0 lr=1").start_epoch(0)  # nothing joins in later
    with pytest.raises(StageError) as caught:
        surgery.build_stages(models["frozen"], surgery.resolve_groups(network(), RULES))
    told["groups of the bare model"] = str(caught.value)
    return told


def in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    told = {"training": trained_as_documented(rank), "refusals": refusals(rank)}
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    wait_for(Path(folder, f"{1 - rank}.json"))
    # Nothing is torn down: gloo's threads now and then abort a process whose peer hangs up first.
    os._exit(0)


def wait_for(file: Path) -> None:
    limit = time.monotonic() + 60
    while not file.exists() and time.monotonic() < limit:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(in_process, (str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_gradients_are_equal_after_an_unfreezing(told):
    for process in told:
        expected = [[count, True, True] for count in (4, 4, 6, 6, 8, 8, 8, 8)]
        assert process["training"] == expected


def test_what_would_drift_apart_is_refused(told):
    for process in told:
        refused = process["refusals"]
        assert "without find_unused_parameters" in refused["plain"]
        assert "with static_graph" in refused["static"]
        assert "2 parameters that are to train, the first is module.0.weight" in refused["frozen"]
        bare = refused["groups of the bare model"]
        assert "2 parameters that are to train, the first is 0.weight" in bare
        assert all("wrap first" in text and "\n" not in text for text in refused.values())
