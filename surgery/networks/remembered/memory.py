"""What is remembered between runs of what the installed libraries would say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.networks.remembered.code import Code, about_to_import, installed_code, trusted_code
from surgery.networks.remembered.entries import Entries

#: Names the folder; platformdirs' own for this user where it is not set.
FOLDER_VARIABLE = "SURGERY_CACHE_DIR"


@dataclass(frozen=True, slots=True)
class Memory:
    """Values by key, for the code that is installed now. Without entries it remembers nothing.

    ``fresh`` says that a process of its own tells what is kept, and not this one.
    """

    entries: Entries | None
    fresh: bool = False

    @property
    def works(self) -> bool:
        """Whether anything can be remembered at all."""
        return self.entries is not None

    def recall(self, *key: Any) -> Any | None:
        """What was kept under the key, whose parts are JSON values; None where nothing was."""
        return self.entries.read(_key_text(key)) if self.entries else None

    def keep(self, value: Any, *key: Any) -> None:
        """Remember ``value`` (JSON), if the code that told it is still the installed one."""
        if self.entries and _code(self.fresh) == self.entries.code:
            self.entries.write(_key_text(key), value)

    def forget(self, *key: Any) -> None:
        """Remember nothing under the key."""
        if self.entries:
            self.entries.remove(_key_text(key))

    def importing(self) -> None:
        """Tell that the libraries are imported next, to ask them instead."""
        if self.entries:
            about_to_import(self.entries.code)


def open_memory(*, fresh: bool = False) -> Memory:
    """The user's memory. Opening it creates nothing and reads nothing.

    ``fresh``: what is asked of it is told by a process of its own, so that it does not matter
    what this one has imported.
    """
    code = _code(fresh)
    folder = _folder() if code else None
    return Memory(Entries(folder, code) if code and folder else None, fresh)


def _code(fresh: bool) -> Code | None:
    return installed_code() if fresh else trusted_code()


def arguments_key(arguments: Mapping[str, Any]) -> list[Any] | None:
    """Arguments as JSON that no other arguments have; None where a value has no exact spelling.

    >>> arguments_key({"img_size": (2, 3), "depth": 1})
    ['dict', ['img_size', ['tuple', 2, 3]], ['depth', 1]]
    """
    try:
        key = _spelled(dict(arguments))
        json.dumps(key)  # refuses whole numbers of more than 4,300 digits
    except ValueError:
        return None
    assert isinstance(key, list)
    return key


def _spelled(value: Any) -> Any:
    """Raises ValueError. Types are compared exactly: a subclass may mean anything."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(_spelled, value)]
    if type(value) is dict and all(type(name) is str for name in value):
        return ["dict", *([name, _spelled(inner)] for name, inner in value.items())]
    raise ValueError(f"{value!r} has no exact spelling in JSON")


def _key_text(key: tuple[Any, ...]) -> str:
    return json.dumps([*key, _settings()], separators=(",", ":"))


def _settings() -> dict[str, str]:
    """The variables that timm's constructors read, such as one that makes every ViT a NaFlexViT."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("TIMM_") or name == "FORK_LAST3"
    }


def _folder() -> Path | None:
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 - without a home, Path's raises
    from platformdirs import user_cache_path

    folder = user_cache_path("model-surgery")
    # Without any home folder it would be one called ~ wherever the command is run.
    return folder if folder.is_absolute() else None
