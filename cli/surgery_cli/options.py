"""Options that several commands share."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from surgery.errors import CheckpointError, SurgeryError

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint

Command = TypeVar("Command", bound=Callable[..., Any])


def output_options(command: Command) -> Command:
    """``--json`` and ``--debug``, on every command."""
    command = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        help="Show the traceback of a failure.",
    )(command)
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object, errors too."
    )(command)


def origin_options(command: Command) -> Command:
    """``--from`` and ``--key``, where rules may ask what a transfer loads."""
    return click.option(
        "--from",
        "origin",
        type=click.Path(path_type=Path),
        help="A checkpoint: what it loads is :loaded, the rest is :new.",
    )(key_option(command))


def build_options(command: Command) -> Command:
    """``--arg`` and ``--num-classes``, where an architecture is built."""
    command = click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        metavar="N",
        help="Number of classes of the new head; 0 gives features.",
    )(command)
    return click.option(
        "--arg",
        "arguments",
        multiple=True,
        callback=_parse_arguments,
        metavar="K=V",
        help="An argument of the architecture's constructor; may be repeated.",
    )(command)


def proof_options(command: Command) -> Command:
    """``--verify`` and ``--input``."""
    command = click.option(
        "--input",
        "shape",
        callback=_parse_shape,
        metavar="3x224x224",
        help="What --verify shows both networks, without the batch.  [default: what both take]",
    )(command)
    return click.option(
        "--verify",
        is_flag=True,
        help="Run both networks in float64 and write only if they compute the same.",
    )(command)


def source_options(command: Command) -> Command:
    """``--source-arch`` and ``--source-arg``: the network that a checkpoint was saved from."""
    command = click.option(
        "--source-arg",
        "source_arguments",
        multiple=True,
        callback=_parse_arguments,
        metavar="K=V",
        help="An argument of the source architecture's constructor; may be repeated.",
    )(command)
    return click.option(
        "--source-arch",
        type=ArchitectureName(),
        metavar="ARCH",
        help="The architecture that OLD was saved from: what --verify runs, and structure's clue.",
    )(command)


def check_source_options(source_arch: str | None, arguments: Mapping[str, Any]) -> None:
    """Raise SurgeryError for arguments of an architecture that nobody named."""
    if arguments and source_arch is None:
        raise SurgeryError(
            "--source-arg is an argument of the architecture that --source-arch names"
        )


def _parse_shape(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = value.lower().split("x")
    if not all(size.isascii() and size.isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(
            f"expected sizes such as 3x224x224, found {value!r}", context, option
        )
    return tuple(map(int, sizes))


def _parse_arguments(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    arguments = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"expected name=value, found {text!r}", context, option)
        if name in arguments:
            raise click.BadParameter(f"{name} is given twice", context, option)
        arguments[name] = _parse_value(value)
    return arguments


def _parse_value(text: str) -> Any:
    """A Python literal where it is one, else the text itself: 3, 0.1, True, (2, 2), avg."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class ArchitectureName(click.ParamType[str]):
    """An architecture, completed in the shell from the libraries' lists or from file names."""

    name = "arch"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from surgery.networks.architectures import list_architectures

        if "/" in incomplete or Path(incomplete).exists():
            return [CompletionItem(incomplete, type="file")]
        names = list_architectures(f"{incomplete}*")
        qualified = any(incomplete.startswith(p) for p in ("timm:", "torchvision:"))
        return [CompletionItem(n if qualified else n.partition(":")[2]) for n in names]


def key_option(command: Command) -> Command:
    """``--key``, where checkpoint files are read."""
    return click.option(
        "--key", help="Which state dict, where a file holds several; . for the file itself."
    )(command)


def hint_option(command: Command) -> Command:
    """``--hint``, where structure decides."""
    return click.option(
        "--hint",
        "hints",
        multiple=True,
        metavar="'SOURCE = TARGET'",
        help="Settle what structure leaves open, such as 'conv3 = reduce' or "
        "'query_key_value = 8 x (q, k, v)'; may be repeated.",
    )(command)


def min_loaded_option(command: Command) -> Command:
    """``--min-loaded``, where a plan may be refused."""
    return click.option(
        "--min-loaded",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="Share of the new parameters below which nothing is written.",
    )(command)


def open_files(paths: Sequence[Path], key: str | None) -> list[Checkpoint]:
    """Open the files, at ``key`` those that have it; a file with a single state dict needs none.

    Raises SurgeryError where no file has such a key, or where one has several others.
    """
    if key is not None and not paths:
        raise SurgeryError(f"--key {key} chooses in a file, and no file is given")
    from surgery.checkpoint import open_checkpoint, read_contents

    opened, missed = [], []
    for path in paths:
        try:
            opened.append(open_checkpoint(path, key=key))
        except CheckpointError as error:
            if key is None or len(read_contents(path).state_dicts) != 1:
                raise
            missed.append(error)
            opened.append(open_checkpoint(path))
    if missed and len(missed) == len(paths):
        raise missed[0]
    return opened


#: A number without a unit is bytes, and whoever types a small one means something else.
_SMALLEST_BARE_SIZE = 1_000_000


def shard_option(command: Command) -> Command:
    """``--max-shard-size``, where weights are written."""
    return click.option(
        "--max-shard-size",
        "max_shard_bytes",
        callback=_parse_size,
        metavar="SIZE",
        help="Cut what is larger (5GB, 500MiB) into several .safetensors files with an index.",
    )(command)


def _parse_size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from surgery.checkpoint.writing.shards import parse_size

    if value.strip().isdigit() and int(value) < _SMALLEST_BARE_SIZE:
        raise click.BadParameter(f"{value} bytes; add a unit, as in {value}GB", context, option)
    try:
        return parse_size(value)
    except SurgeryError as error:
        raise click.BadParameter(error.message, context, option) from error


def refuse_outputs(
    path: Path, max_shard_bytes: int | None, force: bool, *, other: str = "-o"
) -> None:
    """An output that no format has, or that is there already, is refused before any work."""
    from surgery.checkpoint.writer import check_output, existing_outputs

    in_shards = max_shard_bytes is not None
    check_output(path, in_shards=in_shards)
    for found in existing_outputs(path, in_shards=in_shards)[:1]:
        refuse_existing(found, force, other=other)


def refuse_existing(path: Path, force: bool, *, other: str = "-o") -> None:
    """An output that is there already is refused before any work, unless ``--force``.

    ``other`` is the option or argument that names another file.
    """
    if path.exists() and not force:
        raise SurgeryError(f"{path} exists already; --force replaces it; or choose another {other}")
