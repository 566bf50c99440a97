"""``surgery identify``: which known architecture a file is."""

from __future__ import annotations

from pathlib import Path

import click

from surgery_cli.console import print_note, progress, show
from surgery_cli.options import FILE, key_option, open_files, output_options

NOTHING_FITS = 1

_ONCE = (
    "building {total:,} architectures once, without values: this takes minutes; what is done is "
    "remembered, also after Ctrl-C"
)


@click.command(
    "identify",
    epilog="""\b
Examples:
  surgery identify stranger.pt
  surgery identify run.pth.tar --key state_dict_ema
  surgery transfer stranger.pt $(surgery identify stranger.pt --json |
    jq -r '.candidates[0].architectures[0]')
""",
)
@click.argument("file", type=FILE)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="How many candidates to show.",
)
@key_option
@output_options
def identify_command(file: Path, most: int, key: str | None, as_json: bool) -> int:
    """Tell which architecture FILE's names and shapes are.

    Wrappers, prefixes and another head are looked through. The first time every architecture is
    built once, without values, which takes minutes; Ctrl-C is safe, and the next run goes on from
    there. Exits 1 where nothing fits.
    """
    from surgery.networks.identification import identify
    from surgery.networks.survey import survey

    (checkpoint,) = open_files((file,), key)
    with progress("looking at every known architecture", counts=True) as advance:

        def said(done: int, total: int) -> None:
            if not done:
                print_note(_ONCE.format(total=total))
            advance(done, total)

        outlines = survey(progress=said)
    found = identify(checkpoint.specs, outlines, most=most)
    heading = (f"{file} ({checkpoint.format})",)
    show(found, as_json=as_json, beside={"path": str(file)}, heading=heading)
    return 0 if found.fits else NOTHING_FITS
