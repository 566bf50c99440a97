"""``python -m surgery_cli``, for where the script is not on the path."""

from surgery_cli.main import surgery

surgery(prog_name="surgery")
