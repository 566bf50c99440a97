"""``surgery``: the group of commands, and how every failure ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from surgery.errors import SurgeryError
from surgery_cli.archs import archs
from surgery_cli.completion import completion
from surgery_cli.console import abandon_stdout, escape_what_cannot_be_encoded, print_error
from surgery_cli.convert import convert
from surgery_cli.diff import diff
from surgery_cli.groups import groups
from surgery_cli.identify import identify_command
from surgery_cli.inspect import inspect
from surgery_cli.map import map_command
from surgery_cli.schedule import schedule
from surgery_cli.signals import Ended, ending_signals_raise
from surgery_cli.transfer import transfer

UNUSABLE = 2
INTERRUPTED = 130
BUG = 70  # EX_SOFTWARE of sysexits.h


class _ReaderGone(Exception):
    """Whoever read stdout went away (``| head``)."""


class _Surgery(click.Group):
    """Ends every failure in one way: stderr, an exit code, and one JSON object where asked."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        if sys.stdout is None:
            closed = SurgeryError("stdout is closed; send it to /dev/null to drop the result")
            print_error(closed, as_json=False)
            sys.exit(UNUSABLE)
        escape_what_cannot_be_encoded()
        with ending_signals_raise():
            code = _ending(words, lambda: super(_Surgery, self).main(words, prog_name, **extra))
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Click would end a closed pipe by exit code 1, which says that the data said no."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error


def _ending(words: Sequence[str], command: Callable[[], Any]) -> int:
    """The exit code of a command; stdout that takes no more ends it, whatever it had to say.

    Weight files are opened by ``surgery.checkpoint``, which has its own errors: an OSError that
    comes this far is stdout's.
    """
    try:
        return _code(words, command)
    except (BrokenPipeError, _ReaderGone):
        abandon_stdout()
        return INTERRUPTED
    except OSError as error:
        abandon_stdout()
        _show_traceback(words, error)
        unwritten = SurgeryError(f"stdout: cannot be written: {error.strerror or error}")
        print_error(unwritten, as_json=False)
        return UNUSABLE


def _code(words: Sequence[str], command: Callable[[], Any]) -> int:
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _fail(words, "interrupted", INTERRUPTED)
    except Ended as ended:
        return _fail(words, str(ended), ended.exit_code)
    except (OSError, _ReaderGone):
        raise
    except Exception as error:
        return _fail(words, error, getattr(error, "exit_code", BUG))


def _fail(words: Sequence[str], error: Exception | str, code: int) -> int:
    """Say what went wrong; ``--debug`` shows where, a bug says that it is one."""
    _show_traceback(words, error)
    print_error(error, as_json="--json" in words, bug=code == BUG)
    sys.stdout.flush()
    return code


def _show_traceback(words: Sequence[str], error: Exception | str) -> None:
    if "--debug" in words and isinstance(error, Exception):
        import traceback

        traceback.print_exception(error)


@click.group(
    cls=_Surgery,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `surgery transfer old.pt timm:resnet50 --dry-run`: it shows what would "
    "go where and writes nothing.",
)
@click.version_option(package_name="model-surgery", prog_name="surgery")
def surgery() -> None:
    """Model surgery and checkpoint transfer for PyTorch.

    Moves weights into another model, replaces heads, and turns rules for learning rates and
    freezing into parameter groups. Everything is shown before it happens.
    """


for command in (
    transfer,
    map_command,
    groups,
    schedule,
    convert,
    inspect,
    identify_command,
    diff,
    archs,
    completion,
):
    surgery.add_command(command)

if __name__ == "__main__":
    surgery()
