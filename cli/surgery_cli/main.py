"""``surgery``: the group of commands, and how every failure ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from surgery.errors import SurgeryError
from surgery_cli.archs import archs
from surgery_cli.completion import completion
from surgery_cli.diff import diff
from surgery_cli.groups import groups
from surgery_cli.inspect import inspect
from surgery_cli.schedule import schedule
from surgery_cli.transfer import transfer

INTERRUPTED = 130
BUG = 70  # EX_SOFTWARE of sysexits.h


class _Surgery(click.Group):
    """Ends every failure in one way: stderr, an exit code, and one JSON object where asked."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        try:
            extra["standalone_mode"] = False
            code = super().main(words, prog_name, **extra)
            sys.stdout.flush()
        except (KeyboardInterrupt, click.Abort):
            code = _fail(words, "interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader went away (`| head`); whatever Python still holds has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = INTERRUPTED
        except SurgeryError as error:
            code = _fail(words, error, error.exit_code)
        except click.ClickException as error:
            code = _fail(words, error, error.exit_code)
        except Exception as error:
            code = _fail(words, error, BUG)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(words: Sequence[str], error: Exception | str, code: int) -> int:
    """Say what went wrong; ``--debug`` shows where, a bug says that it is one."""
    from surgery_cli.console import print_error, print_error_json

    if "--debug" in words and isinstance(error, Exception):
        import traceback

        traceback.print_exception(error)
    (print_error_json if "--json" in words else print_error)(error, bug=code == BUG)
    return code


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


for command in (transfer, groups, schedule, inspect, diff, archs, completion):
    surgery.add_command(command)

if __name__ == "__main__":
    surgery()
