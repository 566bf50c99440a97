"""What an origin knows of the architectures that come from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from surgery.errors import ArchitectureError
from surgery.networks.remembered import Memory


class Origin:
    """One way of naming architectures. Each ``name`` below is what the origin knows one by."""

    #: What ``Architecture.origin`` says, and how a person writes it.
    name: ClassVar[str]
    form: ClassVar[str]

    def names(self, memory: Memory) -> tuple[str, ...]:
        """All names that can be built; none where there is no list."""
        return ()

    def has(self, name: str, memory: Memory) -> bool:
        """False where it is known without building that there is no such architecture."""
        return True

    def label(self, name: str) -> str:
        """The name that says it all, which finds it again."""
        return f"{self.name}:{name}"

    def stem(self, name: str) -> str:
        """A file name without suffix."""
        return name

    def arguments(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the factory gets of what the caller gives. Raises ArchitectureError."""
        return dict(given)

    def workplace(self, name: str) -> AbstractContextManager[None]:
        """What has to hold while the factory is found and while it runs."""
        return nullcontext()

    def factory(self, name: str) -> Any:
        """What makes the model when it is called, or the model. Raises ArchitectureError."""
        raise NotImplementedError


#: Arguments by which a library would load weights of its own.
_PRETRAINED = ("pretrained", "pretrained_backbone", "weights", "weights_backbone")


class Library(Origin):
    """An installed library: what it builds depends on its code and the arguments alone, and is
    remembered like its names.
    """

    def listed(self) -> list[str]:
        """The library's own list of names."""
        raise NotImplementedError

    def build(self, name: str, **arguments: Any) -> Any:
        """The model, without weights of the library's."""
        raise NotImplementedError

    def names(self, memory: Memory) -> tuple[str, ...]:
        return memory.names_of(self.name, self.listed)

    def has(self, name: str, memory: Memory) -> bool:
        return name in self.names(memory)

    def arguments(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Models never get weights of the library's; to ask for none is what happens anyway."""
        for argument in _PRETRAINED:
            if given.get(argument):
                raise ArchitectureError(
                    f"{self.label(name)}: {argument}={given[argument]!r} would download weights, "
                    "and nothing is downloaded here; leave it out, and pass the downloaded file "
                    "as the source of a transfer"
                )
        return {key: value for key, value in given.items() if key not in _PRETRAINED}

    def factory(self, name: str) -> Callable[..., Any]:
        def make(*, num_classes: int | None = None, **arguments: Any) -> Any:
            if num_classes is not None:
                arguments["num_classes"] = num_classes
            return self.build(name, **arguments)

        return make
