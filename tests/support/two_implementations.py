"""One network from two libraries: built, randomised, and compared by what they put out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from surgery.describe import describe
from surgery.transfers.assembled import make_tensor
from surgery.transfers.source import Tensors, names_of
from surgery.transfers.structure import StructureMatch, match_structure

#: Tables that a constructor computes and a state dict holds all the same.
_COMPUTED = ("relative_coords_table", "relative_position_index", "position_ids")


@torch.no_grad()
def randomised(model: nn.Module, seed: int) -> nn.Module:
    """All parameters and persistent floating buffers random, scaled so that signals survive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name.endswith(_COMPUTED):
            continue
        if tensor.numel() == max(tensor.shape, default=1):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)
        else:
            spread = tensor[0].numel() ** -0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
    return model.eval()


def with_eps(model: nn.Module, eps: float = 1e-5) -> nn.Module:
    """Norm eps set alike: libraries have other defaults, and a checkpoint does not tell them."""
    for module in model.modules():
        for name in ("eps", "layer_norm_eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, eps)
    return model


def matched(
    source: nn.Module | Mapping[str, torch.Tensor], target: nn.Module, **options: object
) -> StructureMatch:
    """What the names and shapes of ``source`` decide for ``target``."""
    state = source.state_dict() if isinstance(source, nn.Module) else source
    return match_structure(names_of(Tensors(state)), describe(target), **options)


@torch.no_grad()
def calls_of(model: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """The paths of the modules, in the order in which they start to run."""
    calls: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
        for path, module in model.named_modules()
    ]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return calls


@torch.no_grad()
def load(match: StructureMatch, source: Mapping[str, torch.Tensor], target: nn.Module) -> None:
    """Apply every step."""
    state = target.state_dict()
    for step in match.steps:
        made = make_tensor(step.operation, step.target.shape, source.__getitem__)
        assert made.shape == state[step.target.name].shape
        state[step.target.name].copy_(made)


def difference(one: nn.Module, other: nn.Module, *inputs: torch.Tensor) -> float:
    """Relative distance of the outputs, in float64."""
    with torch.no_grad():
        first, second = _output(one.double()(*inputs)), _output(other.double()(*inputs))
    return ((first - second).norm() / first.norm()).item()


def _output(output: object) -> torch.Tensor:
    for name in ("logits", "last_hidden_state"):
        if hasattr(output, name):
            return getattr(output, name)
    return output[0] if isinstance(output, tuple) else output


def unloaded(match: StructureMatch, target: nn.Module) -> set[str]:
    """Parameters of the target that no step fills."""
    return {name for name, _ in target.named_parameters()} - {s.target.name for s in match.steps}


def build(name: str) -> nn.Module:
    """``tv:NAME``, ``timm:NAME`` or ``hf:NAME``, with its own initial values."""
    library, _, model = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(model)
    if library == "tv":
        import torchvision

        more = {"init_weights": False} if model == "inception_v3" else {}
        return torchvision.models.get_model(model, weights=None, **more)
    return TRANSFORMERS[model]()


def _image_classifier(name: str, **config: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        settings = getattr(transformers, f"{name}Config")(num_labels=1000, **config)
        return getattr(transformers, f"{name}ForImageClassification")(settings)

    return make


_REGNET = {"depths": [1, 3, 6, 6], "hidden_sizes": [48, 104, 208, 440], "groups_width": 8}
_BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
TRANSFORMERS = {
    "vit": _image_classifier("ViT"),
    "resnet": _image_classifier("ResNet"),
    "resnet18": _image_classifier("ResNet", **_BASIC),
    "regnet": _image_classifier("RegNet", layer_type="y", **_REGNET),
    "convnext": _image_classifier("ConvNext"),
    "swin": _image_classifier("Swin"),
    "swinv2": _image_classifier("Swinv2", image_size=256, window_size=8),
    "mobilenetv2": _image_classifier("MobileNetV2", tf_padding=False),
}
