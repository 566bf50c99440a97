"""What to show networks: images, tokens or rows of numbers of a size that all of them take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

#: The side of an image that is tried before a network's own, where that is larger: most networks
#: shrink by 32 and keep three positions a side, so that edges and padding show.
SMALL_SIDE = 96
#: The size where nothing says one: torchvision's.
USUAL_SIDE = 224
#: Tokens in a row of text.
TOKENS = 12


@dataclass(frozen=True, eq=False)
class Example:
    """One input, and what to call it."""

    tensor: torch.Tensor
    text: str

    def keywords(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a model that encodes and decodes wants besides: the tokens to go on from."""
        decodes = "decoder_input_ids" in inspect.signature(model.forward).parameters
        return {"decoder_input_ids": self.tensor.flip(1)} if decodes else {}


def examples(
    models: Sequence[nn.Module], shape: tuple[int, ...] | None = None
) -> Iterator[Example]:
    """Inputs to try in turn, the cheapest first; ``shape`` (without the batch) leaves one.

    The shape is that of a single example: (3, 224, 224) for images, (16,) for tokens.
    """
    shapes = [shape] if shape else dict.fromkeys(_shapes(models))
    vocabulary = _vocabulary(models)
    for each in shapes:
        yield _tokens(each, vocabulary) if vocabulary else _numbers(each)


def own_shapes(models: tuple[nn.Module, nn.Module]) -> list[tuple[int, ...]]:
    """The images that the networks say they are made for, (channels, height, width)."""
    layer = _first_layer(models[0]) or _first_layer(models[1])
    if not isinstance(layer, nn.Conv2d):
        return []
    sizes = {size for model in models for size in _own_sizes(model)}
    return [(layer.in_channels, *size) for size in sorted(sizes)]


def _numbers(shape: tuple[int, ...]) -> Example:
    # Two at a time show an axis taken for the batch; a large image is expensive enough.
    batch = 1 if max(shape) > SMALL_SIDE else 2
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((batch, *shape), generator=generator, dtype=torch.float64)
    return Example(values, f"{batch} x {'x'.join(map(str, shape))} random numbers")


def _tokens(shape: tuple[int, ...], vocabulary: int) -> Example:
    generator = torch.Generator().manual_seed(0)
    # The first numbers often mean padding, which is masked.
    first = min(3, vocabulary - 1)
    ids = torch.randint(first, vocabulary, (2, *shape), generator=generator)
    return Example(ids, f"2 x {'x'.join(map(str, shape))} random tokens")


def _shapes(models: Sequence[nn.Module]) -> Iterator[tuple[int, ...]]:
    layer = next(filter(None, map(_first_layer, models)), None)
    if isinstance(layer, nn.Embedding):
        yield (TOKENS,)
    elif isinstance(layer, nn.Linear):
        for width in _widths(models):
            yield (width,)
            yield (TOKENS, width)
    elif isinstance(layer, nn.Conv1d):
        yield from ((layer.in_channels, side) for side in (64, 256, 1024))
    elif isinstance(layer, nn.Conv3d):
        yield from ((layer.in_channels, 16, side, side) for side in (32, 64, 112))
    else:
        yield from _images(models, layer.in_channels if isinstance(layer, nn.Conv2d) else 3)


#: A network of more linear layers than this does not show the inputs of all.
_MOST_WIDTHS = 8


def _widths(models: Sequence[nn.Module]) -> list[int]:
    """Inputs of linear layers: what is registered first need not run first."""
    layers = (layer for model in models for layer in model.modules())
    widths = dict.fromkeys(x.in_features for x in layers if isinstance(x, nn.Linear))
    return list(widths)[:_MOST_WIDTHS]


def _images(models: Sequence[nn.Module], channels: int) -> Iterator[tuple[int, ...]]:
    own = [size for model in models for size in _own_sizes(model)]
    if any(max(size) <= SMALL_SIDE for size in own):  # made for small images
        yield from ((channels, *size) for size in own)
    yield (channels, SMALL_SIDE, SMALL_SIDE)
    yield from ((channels, *size) for size in sorted(own))
    yield from ((channels, side, side) for side in (USUAL_SIDE, 32, 64, 256, 299))


def _own_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """(height, width) as timm, torchvision and transformers each note it."""
    embed = getattr(model, "patch_embed", None)
    config = getattr(model, "config", None)
    notes = getattr(model, "pretrained_cfg", None)
    for found in (
        getattr(embed, "img_size", None),
        getattr(model, "image_size", None),
        getattr(config, "image_size", None),
        (notes.get("input_size") or ())[1:] if isinstance(notes, Mapping) else None,
    ):
        match found:
            case int():
                yield (found, found)
            case (int() as height, int() as width):
                yield (height, width)


def _first_layer(model: nn.Module) -> nn.Module | None:
    kinds = (nn.Embedding, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


def _vocabulary(models: Sequence[nn.Module]) -> int:
    """How many tokens both know; 0 where the input is no text."""
    layers = [layer for model in models if isinstance(layer := _first_layer(model), nn.Embedding)]
    return min((layer.num_embeddings for layer in layers), default=0)
