"""Options that several commands share."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from surgery.errors import CheckpointError, SurgeryError

if TYPE_CHECKING:
    from surgery.checkpoint import Checkpoint

Command = TypeVar("Command", bound=Callable[..., Any])


def _parse_shape(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = value.lower().split("x")
    if not all(size.isascii() and size.isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"expected sizes such as 3x224x224, found {value!r}")
    return tuple(map(int, sizes))


def _parse_arguments(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    arguments = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"expected name=value, found {text!r}")
        if name in arguments:
            raise click.BadParameter(f"{name} is given twice")
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


#: A number without a unit is bytes, and whoever types a small one means something else.
_SMALLEST_BARE_SIZE = 1_000_000


def _parse_size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from surgery.checkpoint.writing.shards import parse_size

    if value.strip().isdigit() and int(value) < _SMALLEST_BARE_SIZE:
        raise click.BadParameter(f"{value} bytes; add a unit, as in {value}GB")
    try:
        return parse_size(value)
    except SurgeryError as error:
        raise click.BadParameter(error.message) from error


class ArchitectureName(click.ParamType[str]):
    """An architecture, completed in the shell from the libraries' lists or from file names."""

    name = "arch"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from surgery.networks.architectures import list_architectures

        if "/" in incomplete or os.path.exists(incomplete):
            return [CompletionItem(incomplete, type="file")]
        names = list_architectures(f"{incomplete}*")
        qualified = any(incomplete.startswith(p) for p in ("timm:", "torchvision:"))
        return [CompletionItem(n if qualified else n.partition(":")[2]) for n in names]


FILE = click.Path(path_type=Path)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)


class FileOrArchitecture(click.Path):
    """A path, or an architecture by a name that says where it is from: ``timm:resnet50``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if ":" in str(value) and not os.path.exists(value):
            return str(value)
        return super().convert(value, param, ctx)


class MappingFile(click.Path):
    """A file of lines, which somebody may take for the option's own value."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "->" in str(value) and not os.path.exists(value):
            self.fail(f"{value!r} is a line; expected the path of a file that holds it", param, ctx)
        return super().convert(value, param, ctx)


key_option = click.option(
    "--key", help="Which state dict, where a file holds several; . for the file itself."
)
hint_option = click.option(
    "--hint",
    "hints",
    multiple=True,
    metavar="'SOURCE -> TARGET'",
    help="Decide what structure leaves open, such as 'conv3 -> reduce' or "
    "'query_key_value -> 8 x (q, k, v)'; may be repeated.",
)
min_loaded_option = click.option(
    "--min-loaded",
    type=click.FloatRange(0, 1),
    help="Accept what stays fresh while this share of the new parameters is loaded.  "
    "[default: all but the head]",
)
shard_option = click.option(
    "--max-shard-size",
    "max_shard_bytes",
    callback=_parse_size,
    metavar="SIZE",
    help="Cut what is larger (5GB, 500MiB) into several .safetensors files with an index.",
)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options or arguments as one decorator, in the order in which help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


#: On every command.
output_options = together(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, errors too."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show a failure's traceback."),
)
#: Where an architecture is built.
build_options = together(
    click.option(
        "--arg",
        "arguments",
        multiple=True,
        callback=_parse_arguments,
        metavar="K=V",
        help="An argument of the architecture's constructor; may be repeated.",
    ),
    click.option(
        "--num-classes",
        type=click.IntRange(min=0),
        metavar="N",
        help="Number of classes of the new head; 0 gives features.",
    ),
)
proof_options = together(
    click.option(
        "--verify",
        is_flag=True,
        help="Run both networks in float64 and write only if they compute the same.",
    ),
    click.option(
        "--input",
        "shape",
        callback=_parse_shape,
        metavar="3x224x224",
        help="What --verify shows both networks, without the batch.  [default: what both take]",
    ),
)
#: The network that a checkpoint was saved from.
source_options = together(
    click.option(
        "--source-arch",
        type=ArchitectureName(),
        metavar="ARCH",
        help="The architecture that OLD was saved from: what --verify runs, and structure's clue.",
    ),
    click.option(
        "--source-arg",
        "source_arguments",
        multiple=True,
        callback=_parse_arguments,
        metavar="K=V",
        help="An argument of the source architecture's constructor; may be repeated.",
    ),
)
#: A model and the rules for it: what :func:`surgery_cli.look.resolve` takes.
rules_options = together(
    click.argument("model", required=False, type=ArchitectureName()),
    click.option(
        "--rules", type=FILE, default=Path("rules.txt"), show_default=True, help="The rules file."
    ),
    click.option(
        "--from",
        "origin",
        type=FILE,
        help="A checkpoint: what it loads is :loaded, the rest is :new.",
    ),
    key_option,
    build_options,
)


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
    if os.path.exists(path) and not force:
        raise SurgeryError(f"{path} exists already; --force replaces it; or choose another {other}")
