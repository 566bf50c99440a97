"""``package.module:factory`` or ``path/file.py:factory``: a person's own code, run as it stands.

It may read any file, and is edited between two runs: what it builds is never remembered.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from surgery.errors import ArchitectureError, did_you_mean
from surgery.networks.origins.origin import Origin
from surgery.networks.origins.raised import named_errors
from surgery.wording import printable


@dataclass(frozen=True, slots=True)
class OwnCode(Origin):
    """A function or class that makes a model, or a model that is there already.

    ``others`` are what other origins have before the colon.
    """

    others: tuple[str, ...] = ()

    name = "factory"
    form = "package.module:factory, path/file.py:factory"

    def label(self, name: str) -> str:
        return name

    def stem(self, name: str) -> str:
        return name.rpartition(":")[2]

    @contextmanager
    def workplace(self, name: str) -> Iterator[None]:
        """The code finds its neighbours, also those that it imports only when it runs. Afterwards
        the path is as it was, whatever was done to it.
        """
        place = name.rpartition(":")[0]
        folder = _existing(place).resolve().parent if place.endswith(".py") else Path.cwd()
        before = tuple(sys.path)
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            sys.path[:] = before

    def factory(self, name: str) -> Any:
        place, _, attribute = name.rpartition(":")
        is_file = place.endswith(".py")
        module = _import_file(_existing(place)) if is_file else _import_module(place, self.others)
        if not hasattr(module, attribute):
            public = [known for known in vars(module) if not known.startswith("_")]
            raise ArchitectureError(
                f"{place} has no {attribute!r}{did_you_mean(attribute, public)}"
            )
        return getattr(module, attribute)


def _existing(path: str) -> Path:
    if not os.path.isfile(path):
        raise ArchitectureError(f"there is no file {printable(path)}")
    return Path(path)


def _import_file(path: Path) -> ModuleType:
    name = f"surgery_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their own module up by name.
    sys.modules[name] = module
    with named_errors(str(path)):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str, others: Iterable[str]) -> ModuleType:
    with named_errors(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            near = did_you_mean(f"{name}:", [f"{other}:" for other in others])
            raise ArchitectureError(f"there is no module {error.name!r}{near}") from error
