"""Random small networks, each written down twice under other names, and the truth of both.

A network is a list of logical layers. A writing of it gives every layer a path and every tensor a
name; what it chooses (words or numbers, flat or nested, q, k and v fused or split, which is
registered first) never changes what a layer is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from surgery.specs import TensorSpec


@dataclass(frozen=True)
class Logical:
    """One layer: where it belongs, what it is, and its sizes."""

    block: tuple[int, int] | None
    key: str
    kind: str
    sizes: tuple[int, ...]

    @property
    def identity(self) -> str:
        return f"{self.block}/{self.key}"


#: What a tensor of a writing holds: (logical layer, role, part) for each block of rows.
Truth = dict[str, tuple[tuple[str, str, str], ...]]


@dataclass(frozen=True)
class Writing:
    specs: tuple[TensorSpec, ...]
    truth: Truth


def make_network(rng: random.Random) -> list[Logical]:
    """Stages of blocks of one kind, a stem before and a norm and a head behind."""
    kind = rng.choice(["basic", "bottleneck", "transformer", "gated", "mixer", "inverted"])
    width = rng.choice([8, 12])
    norm = "norm" if kind in ("transformer", "gated", "mixer") else "batchnorm"
    layers = [
        Logical(None, "stem", "conv3", (width, 3)),
        Logical(None, "stem_norm", norm, (width,)),
    ]
    for stage in range(rng.randint(1, 3)):
        out = width if stage == 0 or rng.random() < 0.4 else 2 * width
        shortcut = rng.random() < 0.5
        for block in range(rng.randint(1, 4)):
            first = block == 0
            inputs = width if first else out
            if kind in ("transformer", "gated", "mixer") and inputs != out:
                layers.append(Logical((stage, -1), "reduce", "linear", (out, inputs)))
                inputs = out
            layers += _block(
                (stage, block), kind, inputs, out, (first and shortcut) or inputs != out
            )
        width = out
    layers.append(Logical(None, "last_norm", norm, (width,)))
    layers.append(Logical(None, "head", "linear", (10, width)))
    return layers


def _block(at: tuple[int, int], kind: str, i: int, o: int, shortcut: bool) -> list[Logical]:
    def conv(key: str, out: int, inp: int, size: int = 1) -> list[Logical]:
        return [
            Logical(at, key, f"conv{size}", (out, inp)),
            Logical(at, f"{key}_norm", "batchnorm", (out,)),
        ]

    match kind:
        case "basic":
            found = [*conv("one", o, i, 3), *conv("two", o, o, 3)]
        case "bottleneck":
            found = [*conv("one", o, i), *conv("two", o, o, 3), *conv("three", o, o)]
        case "inverted":
            found = [*conv("one", 2 * o, i), *conv("two", 2 * o, 1, 3), *conv("three", o, 2 * o)]
        case "transformer":
            return [
                Logical(at, "norm_one", "norm", (o,)),
                Logical(at, "attention", "attention", (o,)),
                Logical(at, "out", "linear", (o, o)),
                Logical(at, "norm_two", "norm", (o,)),
                Logical(at, "up", "linear", (2 * o, o)),
                Logical(at, "down", "linear", (o, 2 * o)),
            ]
        case "gated":
            return [
                Logical(at, "norm_one", "norm", (o,)),
                Logical(at, "attention", "attention", (o,)),
                Logical(at, "out", "linear", (o, o)),
                Logical(at, "norm_two", "norm", (o,)),
                Logical(at, "gated", "gated", (2 * o, o)),
                Logical(at, "down", "linear", (o, 2 * o)),
            ]
        case _:
            return [
                Logical(at, "norm_one", "norm", (o,)),
                Logical(at, "up", "linear", (2 * o, o)),
                Logical(at, "down", "linear", (o, 2 * o)),
                Logical(at, "norm_two", "norm", (o,)),
                Logical(at, "up_two", "linear", (2 * o, o)),
                Logical(at, "down_two", "linear", (o, 2 * o)),
            ]
    if shortcut and kind != "inverted":
        found += conv("short", o, i)
    return found


#: Honest names: what two libraries may call one layer. Numbers and words of order tell the truth.
_NAMES = {
    "stem": ["stem", "conv_stem", "patch_embed.proj", "embedder.convolution", "conv0"],
    "stem_norm": ["stem_norm", "bn0", "patch_embed.norm", "embedder.normalization", "norm0"],
    "last_norm": ["norm", "ln_f", "final_norm", "head_norm"],
    "head": ["head", "fc", "classifier.1", "heads.head"],
    "reduce": ["downsample", "reduction", "transition"],
    "one": ["conv1", "a.0", "layer.0.convolution", "conv_pw", "reduce_1x1"],
    "one_norm": ["bn1", "a.1", "layer.0.normalization", "bn_pw", "norm_a"],
    "two": ["conv2", "b.0", "layer.1.convolution", "conv_dw", "conv_kxk"],
    "two_norm": ["bn2", "b.1", "layer.1.normalization", "bn_dw", "norm_b"],
    "three": ["conv3", "c.0", "layer.2.convolution", "conv_pwl", "expand_1x1"],
    "three_norm": ["bn3", "c.1", "layer.2.normalization", "bn_pwl", "norm_c"],
    "short": ["downsample.0", "proj.0", "shortcut.convolution", "conv_sc", "skip_conv"],
    "short_norm": ["downsample.1", "proj.1", "shortcut.normalization", "bn_sc", "skip_norm"],
    "norm_one": ["norm1", "ln_1", "layernorm_before", "attention_norm", "input_layernorm"],
    "norm_two": ["norm2", "ln_2", "layernorm_after", "ffn_norm", "post_attention_layernorm"],
    "attention": ["attn", "self_attention", "attention.attention", "attn", "mha"],
    "out": ["attn.proj", "self_attention.out_proj", "attention.output.dense", "attn.o", "wo"],
    "up": ["mlp.fc1", "mlp.0", "intermediate.dense", "feed_forward.w1", "lin1"],
    "down": ["mlp.fc2", "mlp.3", "output.dense", "feed_forward.w2", "lin2"],
    "gated": ["mlp", "ffn", "mlp.gated", "feed_forward", "swiglu"],
    "up_two": ["channel.fc1", "mlp2.0", "intermediate2.dense", "feed_forward2.w1", "lin3"],
    "down_two": ["channel.fc2", "mlp2.3", "output2.dense", "feed_forward2.w2", "lin4"],
}
_PLACES = [
    "stages.{s}.blocks.{b}",
    "layer{s1}.{b}",
    "features.{s1}.{b}",
    "encoder.h.{n}",
    "s{s1}.b{b1}",
]
_SYLLABLES = ["ka", "lo", "mi", "ru", "te", "so", "na", "pu", "zi", "vy"]


def write(network: list[Logical], rng: random.Random) -> Writing:
    """One writing of the network, entries in any order."""
    style = rng.choice(["library", "library", "library", "words", "numbers", "mixed", "scrambled"])
    book = {"style": style, "library": rng.randrange(5), "rng": rng, "words": {}, "group": {}}
    book["place"] = rng.choice(_PLACES)
    book["nesting"] = rng.choice(["plain", "plain", "grouped", "wrapped"])
    numbers = _block_numbers(network)
    specs: list[TensorSpec] = []
    truth: Truth = {}
    for layer in network:
        path = _path(layer, network, numbers, book)
        for name, shape, held in _tensors(layer, path, rng, book):
            specs.append(TensorSpec(name, shape, "float32"))
            truth[name] = held
    assert len({spec.name for spec in specs}) == len(specs), sorted(spec.name for spec in specs)
    rng.shuffle(specs)
    return Writing(tuple(specs), truth)


def _block_numbers(network: list[Logical]) -> dict[tuple[int, int], int]:
    blocks = dict.fromkeys(layer.block for layer in network if layer.block and layer.block[1] >= 0)
    return {block: at for at, block in enumerate(blocks)}


def _path(layer: Logical, network: list[Logical], numbers: dict, book: dict) -> str:
    local = _local(layer, network, book)
    if layer.block is None:
        return local
    stage, block = layer.block
    if block < 0:
        return f"between.{stage}.{local}"
    n = numbers[layer.block]
    place = book["place"].format(s=stage, s1=stage + 1, b=block, b1=block + 1, n=n)
    return f"{place}.{local}"


def _local(layer: Logical, network: list[Logical], book: dict) -> str:
    rng, style = book["rng"], book["style"]
    if style == "mixed":
        style = book.setdefault(f"style of {layer.key}", rng.choice(["library", "words"]))
    if style == "scrambled":
        return f"{_word(rng)}_{layer.block}".replace("(", "").replace(", ", _word(rng)).replace(
            ")", ""
        ).replace("-", "m") + _word(rng)
    if style == "numbers" and layer.block and layer.block[1] >= 0:
        return _numbered(layer, network, book)
    if style == "words":
        word = book["words"].setdefault(layer.key, _word(rng))
        return _nested(word, layer, network, book)
    return _nested(
        _NAMES[layer.key][book["library"] % len(_NAMES[layer.key])], layer, network, book
    )


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(8)) + rng.choice("xyz")


def _numbered(layer: Logical, network: list[Logical], book: dict) -> str:
    """A Sequential: the main path numbered as it runs, a shortcut beside it."""
    if layer.key.startswith("short"):
        return f"short.{int(layer.key.endswith('norm'))}"
    row = [x.key for x in network if x.block == layer.block and not x.key.startswith("short")]
    return f"f.{row.index(layer.key)}"


def _nested(name: str, layer: Logical, network: list[Logical], book: dict) -> str:
    if layer.block is None or layer.block[1] < 0 or book["nesting"] == "plain":
        return name
    if book["nesting"] == "wrapped":
        return f"body.{name}"
    # Neighbours in random groups, the same in every block.
    rng = book["rng"]
    row = [x.key for x in network if x.block == layer.block]
    group = book["group"].setdefault(layer.key, None)
    if group is None:
        at = row.index(layer.key)
        before = book["group"].get(row[at - 1]) if at else None
        group = before if before and rng.random() < 0.5 else _word(rng)
        book["group"][layer.key] = group
    return f"{group}.{name}"


def _tensors(layer: Logical, path: str, rng: random.Random, book: dict):
    identity = layer.identity

    def held(role: str, parts: str = "") -> tuple[tuple[str, str, str], ...]:
        return tuple((identity, role, part) for part in parts) or ((identity, role, ""),)

    match layer.kind:
        case "linear":
            yield f"{path}.weight", layer.sizes, held("weight")
            yield f"{path}.bias", layer.sizes[:1], held("bias")
        case "conv1" | "conv3":
            size = int(layer.kind[-1])
            yield f"{path}.weight", (*layer.sizes, size, size), held("weight")
        case "norm" | "batchnorm":
            yield f"{path}.weight", layer.sizes, held("weight")
            yield f"{path}.bias", layer.sizes, held("bias")
            if layer.kind == "batchnorm":
                yield f"{path}.running_mean", layer.sizes, held("mean")
                yield f"{path}.running_var", layer.sizes, held("var")
        case "gated":
            yield from _gated(path, layer.sizes, held, book)
        case _:
            yield from _attention(path, layer.sizes[0], held, book)


#: How one may write gate and up: the names, and what each holds.
_GATES = [
    (("gate_proj", "g"), ("up_proj", "u")),
    (("gate", "g"), ("up", "u")),
    (("w1", "g"), ("w3", "u")),
    (("gate_up_proj", "gu"),),
    (("up_gate_proj", "ug"),),
    (("w13", "gu"),),
    # Nothing tells which comes first in these.
    (("fc1", "gu"),),
    (("w_in", "ug"),),
]


def _gated(path: str, sizes: tuple[int, int], held, book: dict):
    form = book.setdefault("gates", book["rng"].choice(_GATES))
    for name, parts in form:
        yield f"{path}.{name}.weight", (sizes[0] * len(parts), sizes[1]), held("weight", parts)


def _attention(path: str, width: int, held, book: dict):
    form = book.setdefault(
        "attention", book["rng"].choice(["qkv", "in_proj", "heads", "split", "split", "qv"])
    )
    three = (3 * width, width)
    match form:
        case "qkv":
            yield f"{path}.qkv.weight", three, held("weight", "qkv")
            yield f"{path}.qkv.bias", (3 * width,), held("bias", "qkv")
        case "in_proj":
            yield f"{path}.in_proj_weight", three, held("weight", "qkv")
            yield f"{path}.in_proj_bias", (3 * width,), held("bias", "qkv")
        case "heads":  # interleaved per head: no row is that of a block
            word = book.setdefault(
                "heads", book["rng"].choice(["query_key_value", "attn_qkv.query_key_value"])
            )
            yield f"{path}.{word}.weight", three, held("weight", "h")
            yield f"{path}.{word}.bias", three[:1], held("bias", "h")
        case "qv":
            yield f"{path}.qkv.weight", three, held("weight", "qkv")
            yield f"{path}.q_bias", (width,), held("bias", "q")
            yield f"{path}.v_bias", (width,), held("bias", "v")
        case _:
            words = book.setdefault(
                "split",
                book["rng"].choice(
                    [
                        ("q_proj", "k_proj", "v_proj"),
                        ("query", "key", "value"),
                        ("to_q", "to_k", "to_v"),
                    ]
                ),
            )
            for part, word in zip("qkv", words, strict=True):
                yield f"{path}.{word}.weight", (width, width), held("weight", part)
                yield f"{path}.{word}.bias", (width,), held("bias", part)
