"""``"timm:resnet50"``, ``"torchvision:vit_b_16"``, ``"pkg.module:make"`` -> a model, or its spec.

Nothing is ever downloaded: models are built with their own initial values.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from surgery.describe import describe
from surgery.errors import ArchitectureError, did_you_mean
from surgery.specs import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.checkpoint import Checkpoint
    from surgery.deferred import DeferredInit

LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Which architecture was meant.

    ``origin`` is ``"timm"``, ``"torchvision"``, ``"factory"`` or ``"like"``; ``name`` is what
    that origin knows it by. ``also`` names the other library where a bare name fits both.
    """

    origin: str
    name: str
    also: str = ""

    @property
    def label(self) -> str:
        """The name that says it all: ``timm:resnet50``, ``models.py:make``, ``like:x.pt``."""
        return self.name if self.origin == "factory" else f"{self.origin}:{self.name}"

    @property
    def stem(self) -> str:
        """A file name without suffix: ``resnet50``, ``make``, ``like-x``."""
        if self.origin == "factory":
            return self.name.rpartition(":")[2]
        return f"like-{Path(self.name).stem}" if self.origin == "like" else self.name

    def __str__(self) -> str:
        if self.also:
            return f"{self.label} ({self.also} has one too)"
        return self.label


def find_architecture(text: str) -> Architecture:
    """Tell which architecture ``text`` names; nothing is built yet.

    A bare name is timm's if timm has it, else torchvision's. Raises
    :class:`~surgery.errors.ArchitectureError` with the nearest names.
    """
    origin, colon, name = text.partition(":")
    if not colon:
        return _find_bare(text)
    if origin in LIBRARIES:
        if name not in _known(origin):
            raise ArchitectureError(
                f"{origin} has no architecture {name!r}{did_you_mean(name, _known(origin), 3)}"
            )
        return Architecture(origin, name)
    if origin == "like":
        return Architecture("like", name)
    if origin.lower().replace("_", "-") == "hf-hub":
        raise ArchitectureError(
            f"{text!r} names a model on a hub, and nothing is downloaded here; name the "
            "architecture (timm:NAME) and pass the downloaded file as the source"
        )
    return Architecture("factory", text)


def _find_bare(name: str) -> Architecture:
    homes = [library for library in LIBRARIES if name in _known(library)]
    if homes:
        return Architecture(homes[0], name, also=f"{homes[1]}:{name}" if homes[1:] else "")
    names = {known: None for library in LIBRARIES for known in _known(library)}
    looks_like_file = Path(name).suffix in {".py", ".pt", ".pth", ".safetensors"}
    hint = (
        "; a Python file is path/file.py:factory, another checkpoint's names are like:file"
        if looks_like_file
        else did_you_mean(name, names, 3) or "; `surgery archs` lists all names"
    )
    raise ArchitectureError(f"neither timm nor torchvision has an architecture {name!r}{hint}")


def list_architectures(pattern: str = "*") -> tuple[str, ...]:
    """All names that can be built, as ``timm:NAME`` and ``torchvision:NAME``.

    ``pattern`` is a glob over the name with or without its library; one without wildcards
    matches anywhere in the name.
    """
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return tuple(
        f"{library}:{name}"
        for library in LIBRARIES
        for name in _known(library)
        if fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(f"{library}:{name}", glob)
    )


def _known(library: str) -> tuple[str, ...]:
    if library == "timm":
        import timm

        return tuple(timm.list_models())
    import torchvision

    return tuple(torchvision.models.list_models())


class Blueprint(Protocol):
    """A target before it has values: its spec, and initial values for the names that need them."""

    @property
    def spec(self) -> ModelSpec: ...

    def initial_values(self, names: Iterable[str]) -> dict[str, torch.Tensor]: ...


def blueprint(
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Blueprint:
    """Build the architecture, but none of the initial values that nobody asks for.

    ``arguments`` go to its constructor; ``num_classes`` too where the constructor takes it, else
    the head is replaced. Initial values depend on the architecture and ``seed`` alone. Raises
    :class:`~surgery.errors.ArchitectureError` for anything that cannot be built.
    """
    if architecture.origin == "like":
        return _blueprint_like(architecture, arguments, num_classes)
    from surgery.deferred import DeferredInit

    with DeferredInit(seed) as init:
        model = build(architecture, arguments=arguments, num_classes=num_classes)
    return _Unfilled(model, init)


def build(
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The model itself, with its own initial values; see :func:`blueprint` for the arguments."""
    if architecture.origin == "like":
        raise ArchitectureError(
            f"{architecture.label} is a list of names and shapes; a model cannot be built from it"
        )
    factory = _factory(architecture)
    arguments = dict(arguments or {})
    head_by_hand = num_classes is not None and not _takes(factory, "num_classes")
    if num_classes is not None and not head_by_hand:
        arguments["num_classes"] = num_classes
    model = _call(architecture, factory, arguments)
    if head_by_hand and num_classes is not None:
        from surgery.heads import replace_head

        replace_head(model, num_classes)
    return model


@dataclass(frozen=True)
class _Unfilled:
    """A model whose tensors hold no values until somebody asks for them."""

    model: nn.Module
    init: DeferredInit

    @cached_property
    def spec(self) -> ModelSpec:
        return describe(self.model)

    def initial_values(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        state = self.model.state_dict()
        values = {name: state[name] for name in names}
        self.init.fill(values.values())
        return values


@dataclass(frozen=True)
class _Like:
    """Another checkpoint's names and shapes; what is not loaded keeps that checkpoint's values."""

    checkpoint: Checkpoint

    @cached_property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_tensors(self.checkpoint.specs, ties=self.checkpoint.ties)

    def initial_values(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {name: self.checkpoint.tensor(name) for name in names}


def _blueprint_like(
    architecture: Architecture, arguments: Mapping[str, Any] | None, num_classes: int | None
) -> _Like:
    from surgery.checkpoint import open_checkpoint

    if arguments or num_classes is not None:
        raise ArchitectureError(
            f"{architecture.label} has its names and shapes from a file; it takes no arguments "
            "and no number of classes"
        )
    return _Like(open_checkpoint(architecture.name))


Factory = Callable[..., Any]


def _factory(architecture: Architecture) -> Factory:
    match architecture.origin:
        case "timm":
            return _timm_factory(architecture.name)
        case "torchvision":
            return _torchvision_factory(architecture.name)
    return _own_factory(architecture.name)


def _timm_factory(name: str) -> Factory:
    import timm

    def make(num_classes: int | None = None, **arguments: Any) -> Any:
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        return timm.create_model(name, pretrained=False, **arguments)

    return make


def _torchvision_factory(name: str) -> Factory:
    import torchvision

    builder = torchvision.models.get_model_builder(name)

    def make(num_classes: int | None = None, **arguments: Any) -> Any:
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        # Detection and segmentation builders would download a backbone by default.
        if "weights_backbone" in inspect.signature(builder).parameters:
            arguments.setdefault("weights_backbone", None)
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce that their initialisation will change some day.
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            return builder(weights=None, **arguments)

    return make


def _own_factory(text: str) -> Factory:
    """``package.module:factory`` or ``path/file.py:factory``: a person's own code, run as asked."""
    place, _, name = text.rpartition(":")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ArchitectureError(f"{place} has no {name!r}{did_you_mean(name, public)}")
    factory = getattr(module, name)
    if not callable(factory):
        raise ArchitectureError(
            f"{text} is a {type(factory).__name__}; expected a function or class that makes a model"
        )
    return factory  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ArchitectureError(f"there is no file {path}")
    name = f"surgery_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their own module up by name.
    sys.modules[name] = module
    with _on_path(path.resolve().parent), _own_code(str(path)):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _on_path(Path.cwd()), _own_code(name):
        return importlib.import_module(name)


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _own_code(what: str) -> Iterator[None]:
    """Whatever a person's code raises becomes one line that names the place it was raised at."""
    try:
        yield
    except ArchitectureError:
        raise
    except Exception as error:
        raise ArchitectureError(f"{what} raised {_told(error)}") from error


def _told(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}{place}"


def _takes(factory: Factory, argument: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _call(architecture: Architecture, factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    from torch import nn

    with _own_code(architecture.label):
        _check_arguments(architecture, factory, arguments)
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture.label} returned a {type(model).__name__}; expected a torch.nn.Module"
        )
    return model


def _check_arguments(
    architecture: Architecture, factory: Factory, arguments: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(factory)
        signature.bind(**arguments)
    except ValueError:  # a builtin without a signature: the call itself will tell
        return
    except TypeError as error:
        wrong = next((name for name in arguments if not _takes(factory, name)), "")
        hint = did_you_mean(wrong, signature.parameters) if wrong else ""
        raise ArchitectureError(
            f"{architecture.label} takes {signature}, not "
            f"({', '.join(f'{k}={v!r}' for k, v in arguments.items())}): {error}{hint}"
        ) from error
