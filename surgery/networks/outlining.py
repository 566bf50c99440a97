"""The process that looks at architectures: a list of them on stdin, a line of JSON on stdout for
each. :mod:`surgery.networks.survey` starts it, in a fresh interpreter.
"""

from __future__ import annotations

import json
import sys

import torch

from surgery.errors import ArchitectureError
from surgery.networks.architectures import find_architecture
from surgery.networks.building import build_deferred
from surgery.networks.identification import Outline
from surgery.wrappers import unwrap_names


def outline(label: str) -> Outline:
    """Build the architecture without its initial values, and say what it is made of."""
    try:
        built = build_deferred(find_architecture(label))
    except ArchitectureError as error:
        return Outline(label, {}, problem=error.message)
    except Exception as error:  # one that cannot be looked at shall not hide all the others
        return Outline(label, {}, problem=f"{type(error).__name__}: {error}")
    tensors = {tensor.name: tensor.shape for tensor in built.spec.tensors if tensor.is_floating}
    clean = unwrap_names(tensors)
    shapes = {clean[name]: shape for name, shape in tensors.items()}
    return Outline(label, shapes, built.find_heads())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in json.load(sys.stdin):
        print(json.dumps(outline(each).to_dict()), flush=True)
