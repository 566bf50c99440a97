"""One network from two libraries: built, randomised, and compared by what they put out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from surgery.checkpoint.tensors.memory import Tensors
from surgery.checkpoint.weights import names_of
from surgery.matching.structure import StructureMatch, match_structure
from surgery.networks.describe import describe
from surgery.specs import SourceSpec
from surgery.transfers.recipe_tensors import make_tensor

#: Tables that a constructor computes and a state dict holds all the same.
_COMPUTED = ("relative_coords_table", "relative_position_index", "position_ids")


@torch.no_grad()
def randomised(model: nn.Module, seed: int) -> nn.Module:
    """All parameters and persistent floating buffers random, scaled so that signals survive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.numel() or not tensor.is_floating_point() or name.endswith(_COMPUTED):
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


def matched_unbuilt(source: nn.Module, target: nn.Module) -> StructureMatch:
    """The same for models on the meta device, whose tensors have no memory to be tied by."""
    ours = describe(source)
    return match_structure(SourceSpec(ours.tensors, ours.ties), describe(target))


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
        made = make_tensor(step.recipe, source.__getitem__)
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


def _image_classifier(name: str, head: str = "", **config: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        settings = getattr(transformers, f"{name}Config")(num_labels=1000, **config)
        return getattr(transformers, f"{name}ForImageClassification{head}")(settings)

    return make


def unbuilt(name: str) -> nn.Module:
    """The same without values, for names and shapes; torchvision's regnets cannot be made
    so, since they compute with values while they are built.
    """
    with torch.device("cpu" if name.startswith("tv:regnet") else "meta"):
        return build(name)


def smaller(name: str) -> nn.Module:
    """The same classes and depth as :func:`build` gives, in fewer channels where those are what
    a test would wait for.
    """
    return SMALLER[name]() if name in SMALLER else build(name)


def _timm(name: str, **sizes: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, **sizes)

    return make


def _torchvision_vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # its linear layers are 120 million weights
        model = VGG(make_layers([2, "M"]), init_weights=False)
    model.features = make_layers(_VGG, batch_norm=True)
    sizes = [(_VGG[-2] * 49, 64), (64, 64), (64, 1000)]
    for at, (inputs, outputs) in zip((0, 3, 6), sizes, strict=True):
        model.classifier[at] = nn.Linear(inputs, outputs)
    return model


def _timm_vgg() -> nn.Module:
    from timm.models.vgg import VGG, ClassifierHead, ConvMlp

    with torch.device("meta"):
        model = VGG(_VGG, norm_layer=nn.BatchNorm2d)
    model.features.to_empty(device="cpu")
    model.pre_logits = ConvMlp(_VGG[-2], 64, 7)
    model.head = ClassifierHead(64, 1000)
    return model


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 32, 12, 3, 48, 192)


def _torchvision_swin(version: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import swin_transformer as swin

        heads, window = [3, 6, 12, 24], [8, 8] if version == 2 else [7, 7]
        parts = {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
        return swin.SwinTransformer(
            [4, 4], 24, [2, 2, 6, 2], heads, window, **(parts if version == 2 else {})
        )

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
#: VGG-16 in an eighth of its channels.
_VGG = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
_SWIN = {"embed_dim": 24, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
_VIT = {"img_size": 64, "embed_dim": 48, "num_heads": 3}
_TRANSFORMER = {
    "image_size": 64,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 11,
    "intermediate_size": 192,
}
_BEIT = {
    "use_relative_position_bias": True, "layer_scale_init_value": 0.1, "use_mean_pooling": True
}  # fmt: skip
SMALLER = {
    "tv:vgg16_bn": _torchvision_vgg,
    "timm:vgg16_bn": _timm_vgg,
    "tv:vit_b_32": _torchvision_vit,
    "timm:vit_base_patch32_224": _timm("vit_base_patch32_224", **_VIT),
    "timm:vit_base_patch16_224": _timm("vit_base_patch16_224", **_VIT),
    "hf:vit": _image_classifier("ViT", **{**_TRANSFORMER, "num_hidden_layers": 12}),
    "hf:beit": _image_classifier("Beit", **_TRANSFORMER, **_BEIT),
    "timm:beit_base_patch16_224": _timm("beit_base_patch16_224", **_VIT, depth=11),
    "hf:deit": _image_classifier("DeiT", "WithTeacher", **_TRANSFORMER),
    "timm:deit_base_distilled_patch16_224": _timm(
        "deit_base_distilled_patch16_224", **_VIT, depth=11
    ),
    "hf:hiera": _image_classifier("Hiera", depths=[1, 2, 7, 2], embed_dim=24),
    "timm:hiera_tiny_224": _timm("hiera_tiny_224", embed_dim=24),
    "hf:mobilevitv2": _image_classifier("MobileViTV2", width_multiplier=0.5),
    "tv:swin_t": _torchvision_swin(1),
    "timm:swin_tiny_patch4_window7_224": _timm("swin_tiny_patch4_window7_224", **_SWIN),
    "hf:swin": _image_classifier("Swin", **_SWIN),
    "tv:swin_v2_t": _torchvision_swin(2),
    "timm:swinv2_tiny_window8_256": _timm("swinv2_tiny_window8_256", **_SWIN),
    "hf:swinv2": _image_classifier("Swinv2", image_size=256, window_size=8, **_SWIN),
}
