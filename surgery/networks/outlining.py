"""The process that looks at architectures: a list of them on stdin, a line of JSON on stdout for
each. :mod:`surgery.networks.survey` starts it, in a fresh interpreter.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from surgery.errors import ArchitectureError
from surgery.heads import head_paths
from surgery.networks.architectures import find_architecture
from surgery.networks.building import build
from surgery.networks.deferred import DeferredInit
from surgery.networks.describe import describe
from surgery.networks.remembered import Outline, to_columns
from surgery.wrappers import unwrap_names


def outline(label: str) -> Outline:
    """Build the architecture without its initial values, and say what it is made of."""
    with DeferredInit():
        model = build(find_architecture(label))
    tensors = {spec.name: spec for spec in describe(model).tensors if spec.is_floating}
    clean = unwrap_names(tensors)
    return Outline(
        label,
        {clean[name]: spec.shape for name, spec in tensors.items()},
        head_paths(model),
    )


def _answer(label: str) -> dict[str, Any]:
    try:
        return {"architecture": label, "outline": to_columns([outline(label)])}
    except ArchitectureError as error:
        return {"architecture": label, "problem": error.message}
    except Exception as error:  # one that cannot be looked at shall not hide all the others
        return {"architecture": label, "problem": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in json.load(sys.stdin):
        print(json.dumps(_answer(each)), flush=True)
