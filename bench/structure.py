"""What planning by structure takes, beside planning by names: ``python -m bench.structure``."""

from __future__ import annotations

import sys

from bench.pairs import compare, run_inside

#: Two implementations of one network, and of a block that is repeated: names and shapes alone.
SPECS = """
import resource, sys, time
from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers import plan_transfer

W, H = 64, 256

def spec(name, *shape):
    return TensorSpec(name, shape, "float32")

def fused(blocks):
    for i in range(blocks):
        for name, shape in (("norm1", (W,)), ("attn.qkv", (3 * W, W)), ("attn.proj", (W, W)),
                            ("norm2", (W,)), ("mlp.fc1", (H, W)), ("mlp.fc2", (W, H))):
            yield spec(f"blocks.{i}.{name}.weight", *shape)
            yield spec(f"blocks.{i}.{name}.bias", shape[0])

def split(blocks):
    for i in range(blocks):
        for name, shape in (("layernorm_before", (W,)), ("attention.query", (W, W)),
                            ("attention.key", (W, W)), ("attention.value", (W, W)),
                            ("attention.dense", (W, W)), ("layernorm_after", (W,)),
                            ("intermediate.dense", (H, W)), ("output.dense", (W, H))):
            yield spec(f"encoder.layer.{i}.{name}.weight", *shape)
            yield spec(f"encoder.layer.{i}.{name}.bias", shape[0])
"""

PLAN = """
source = tuple({source}({blocks}))
target = ModelSpec.from_tensors(tuple({target}({blocks})))
started = time.perf_counter()
plan = plan_transfer(source, target, match="{match}")
seconds = time.perf_counter() - started
assert plan.loaded_fraction == 1 and not plan.unused
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def compare_structure() -> None:
    """Print the time of planning alone, for a usual size and for 100,000 tensors."""
    for blocks, runs in ((84, 7), (8334, 3)):
        title = (
            f"planning {12 * blocks:,} tensors from {16 * blocks:,} of another implementation, "
            "against planning by names into the same"
        )
        print(
            compare(
                f"\n{title}",
                _command("split", "fused", blocks, "structure"),
                _command("fused", "fused", blocks, "names"),
                runs=runs,
                measure=run_inside,
            )
        )


def _command(source: str, target: str, blocks: int, match: str) -> list[str]:
    code = PLAN.format(source=source, target=target, blocks=blocks, match=match)
    return [sys.executable, "-c", SPECS + code]


if __name__ == "__main__":
    compare_structure()
