"""``surgery completion``: the script that teaches a shell to complete this command line."""

from __future__ import annotations

import click

from surgery_cli.console import print_text


@click.command(
    epilog="""\b
Examples:
  eval "$(surgery completion bash)"
  surgery completion fish > ~/.config/fish/completions/surgery.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    root = context.find_root()
    complete = get_completion_class(shell)
    assert complete is not None
    print_text(complete(root.command, {}, "surgery", "_SURGERY_COMPLETE").source())
