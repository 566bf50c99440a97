"""``"timm:resnet50"``, ``"torchvision:vit_b_16"``, ``"pkg.module:make"`` -> a model, or its spec.

Nothing is ever downloaded: models are built with their own initial values. What a
library says of its names and its models is remembered (:mod:`surgery.networks.remembered`), and
asked of it only once.
"""

from __future__ import annotations

import copy
import fnmatch
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from surgery.errors import ArchitectureError, did_you_mean
from surgery.networks.describe import describe
from surgery.networks.remembered import Memory, Signature, arguments_key, open_memory
from surgery.specs import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgery.checkpoint import Checkpoint
    from surgery.checkpoint.places import Place
    from surgery.networks.deferred import DeferredInit

LIBRARIES = ("timm", "torchvision")

_FORMS = "timm:NAME, torchvision:NAME, package.module:factory, path/file.py:factory or like:file"

# Arguments by which a library would load weights of its own.
_PRETRAINED = ("pretrained", "pretrained_backbone", "weights", "weights_backbone")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Which architecture was meant.

    ``origin`` is ``"timm"``, ``"torchvision"``, ``"factory"`` or ``"like"``; ``name`` is what
    that origin knows it by (``file#key`` for one state dict of several in a file). ``also`` names
    the other library where a bare name fits both.
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
        if self.origin == "like":
            return f"like-{_file_and_key(self.name)[0].stem}"
        return self.name

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
    memory = open_memory()
    if not colon:
        return _find_bare(text, memory)
    if not origin or not name:
        raise ArchitectureError(f"{text!r} names no architecture; expected {_FORMS}")
    if origin in LIBRARIES:
        if not _has(origin, name, memory):
            near = did_you_mean(name, _known(origin, memory), 3)
            raise ArchitectureError(f"{origin} has no architecture {name!r}{near}")
        return Architecture(origin, name)
    if origin == "like":
        return Architecture("like", name)
    if origin.lower().replace("_", "-") == "hf-hub":
        raise ArchitectureError(
            f"{text!r} names a model on a hub, and nothing is downloaded here; name the "
            "architecture (timm:NAME) and pass the downloaded file as the source"
        )
    return Architecture("factory", text)


def _find_bare(name: str, memory: Memory) -> Architecture:
    homes = [library for library in LIBRARIES if _has(library, name, memory)]
    if homes:
        return Architecture(homes[0], name, also=f"{homes[1]}:{name}" if homes[1:] else "")
    names = {known: None for library in LIBRARIES for known in _known(library, memory)}
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
    memory = open_memory()
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return tuple(
        f"{library}:{name}"
        for library in LIBRARIES
        for name in _known(library, memory)
        if fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(f"{library}:{name}", glob)
    )


def _has(library: str, name: str, memory: Memory) -> bool:
    """Timm's names may carry the tag of a training recipe: ``resnet50.a1_in1k``."""
    tagged = library == "timm" and "." in name
    return name in (_known_tagged(memory) if tagged else _known(library, memory))


def _known(library: str, memory: Memory) -> tuple[str, ...]:
    return _remembered_names(memory, library, _timm_names if library == "timm" else _vision_names)


def _known_tagged(memory: Memory) -> tuple[str, ...]:
    return _remembered_names(memory, "timm, tagged", _timm_tagged_names)


def _remembered_names(memory: Memory, what: str, ask: Callable[[], list[str]]) -> tuple[str, ...]:
    names = memory.recall("names", what)
    if names is None:
        memory.importing()
        names = ask()
        memory.keep(names, "names", what)
    return tuple(names)


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm_tagged_names() -> list[str]:
    import timm

    return list(timm.list_pretrained())


def _vision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models())


class Blueprint(Protocol):
    """A target before it has values: what its state dict is made of, and values on request.

    ``heads`` are the paths of its heads, None where there is no model to ask. ``versions`` are
    those of its modules, by path; ``extras`` the entries of its state dict that are no tensors.
    ``order`` is that in which modules run (:mod:`surgery.networks.running_order`); empty where it
    is not known.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def heads(self) -> tuple[str, ...] | None: ...

    @property
    def versions(self) -> Mapping[str, int]: ...

    @property
    def extras(self) -> Mapping[str, Any]: ...

    @property
    def order(self) -> tuple[str, ...]: ...

    def initial(self, names: Iterable[str]) -> Mapping[str, torch.Tensor | Place]:
        """The initial values of these tensors only, in any order: a tensor, or where it lies."""


def blueprint(
    architecture: Architecture,
    *,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Blueprint:
    """Build the architecture, but none of the initial values that nobody asks for.

    ``arguments`` go to its constructor; ``num_classes`` too where the constructor names it, else
    the head is replaced. 0 gives features. What a person's own code prints goes to stderr, and a
    module that is there already is copied. Initial values depend on the architecture and ``seed``
    alone. Raises :class:`~surgery.errors.ArchitectureError` for anything that cannot be built.

    A library's model is remembered, and the next time built only for its initial values.
    """
    if architecture.origin == "like":
        return _blueprint_like(architecture, arguments, num_classes)
    plan = _BuildingPlan(architecture, arguments or {}, num_classes, seed)
    if architecture.origin in LIBRARIES:
        return _remembered_or_built(plan)
    # A person's own code may read any file, and is edited between two runs: never remembered.
    return plan.build()


@dataclass(frozen=True)
class _BuildingPlan:
    architecture: Architecture
    arguments: Mapping[str, Any]
    num_classes: int | None
    seed: int

    @cached_property
    def key(self) -> tuple[Any, ...] | None:
        """What its signature depends on, besides the installed code. A seed makes values only."""
        arguments = arguments_key(_without_downloads(self.architecture, self.arguments))
        if arguments is None:
            return None
        origin, name = self.architecture.origin, self.architecture.name
        return ("signature", origin, name, arguments, self.num_classes)

    def build(self) -> _Unfilled:
        from surgery.networks.deferred import DeferredInit

        with DeferredInit(self.seed) as init:
            model = build(self.architecture, arguments=self.arguments, num_classes=self.num_classes)
        return _Unfilled(model, init)


def _remembered_or_built(plan: _BuildingPlan) -> Blueprint:
    if plan.key is None:
        return plan.build()
    memory = open_memory()
    signature = _signature(memory.recall(*plan.key))
    if signature is not None:
        return _Remembered(plan, signature, memory)
    memory.importing()
    built = plan.build()
    # Entries that are no tensors may be anything; what JSON makes of them is another thing.
    # To find the heads of a torchvision model can take half a second: only where it is kept.
    if memory.works and not built.extras:
        memory.keep(built.signature.to_dict(), *plan.key)
    return built


def _signature(remembered: Any) -> Signature | None:
    if remembered is None:
        return None
    try:
        return Signature.from_dict(remembered)
    except (KeyError, TypeError, ValueError):
        return None


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
    arguments = _without_downloads(architecture, arguments or {})
    with _workplace(architecture):
        factory = _factory(architecture)
        if num_classes is None:
            return _call(architecture, factory, arguments)
        return _with_classes(architecture, factory, arguments, num_classes)


def _with_classes(
    architecture: Architecture, factory: Factory, arguments: dict[str, Any], num_classes: int
) -> nn.Module:
    from surgery.heads import replace_head

    if "num_classes" in arguments:
        raise ArchitectureError(
            f"{architecture.label}: num_classes is given twice, as an argument "
            f"({arguments['num_classes']!r}) and as the number of classes ({num_classes})"
        )
    # Timm knows what 0 classes are; others would make a layer without outputs, so they make one
    # with a single class, which is then taken off.
    asked = num_classes if architecture.origin == "timm" else num_classes or 1
    named = _names(factory, "num_classes")
    model = _call(
        architecture, factory, {**arguments, "num_classes": asked} if named else arguments
    )
    if not named or asked != num_classes:
        replace_head(model, num_classes)
    return model


def _without_downloads(architecture: Architecture, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A library's models never get weights of its own; asking for none is what happens anyway."""
    if architecture.origin not in LIBRARIES:
        return dict(arguments)
    for name in _PRETRAINED:
        if arguments.get(name):
            raise ArchitectureError(
                f"{architecture.label}: {name}={arguments[name]!r} would download weights, and "
                "nothing is downloaded here; leave it out, and pass the downloaded file as the "
                "source of a transfer"
            )
    return {name: value for name, value in arguments.items() if name not in _PRETRAINED}


@dataclass(frozen=True)
class _Unfilled:
    """A model whose tensors hold no values until somebody asks for them."""

    model: nn.Module
    init: DeferredInit

    @cached_property
    def spec(self) -> ModelSpec:
        return describe(self.model)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        from surgery.heads import head_paths

        return head_paths(self.model)

    @cached_property
    def versions(self) -> Mapping[str, int]:
        entries = getattr(self._state, "_metadata", None) or {}  # a model may make its own mapping
        versions = {path: entry.get("version") for path, entry in entries.items()}
        return {path: version for path, version in versions.items() if isinstance(version, int)}

    @cached_property
    def extras(self) -> Mapping[str, Any]:
        return {name: self._state[name] for name in self._state if name not in self.spec.by_name}

    @cached_property
    def order(self) -> tuple[str, ...]:
        from surgery.networks.running_order import running_order

        return running_order(self.model)

    @property
    def signature(self) -> Signature:
        return Signature(self.spec, self.heads, self.versions)

    def initial(self, names: Iterable[str]) -> Mapping[str, torch.Tensor]:
        values = {name: self._state[name] for name in names}
        self.init.fill(values.values())
        return values

    @cached_property
    def _state(self) -> Any:  # torch adds ``_metadata`` to an OrderedDict
        return self.model.state_dict()


@dataclass(frozen=True)
class _Remembered:
    """What an earlier run saw of a library's model; the model is built for its values alone."""

    plan: _BuildingPlan
    signature: Signature
    memory: Memory

    extras = MappingProxyType[str, Any]({})

    @property
    def spec(self) -> ModelSpec:
        return self.signature.spec

    @property
    def heads(self) -> tuple[str, ...]:
        return self.signature.heads

    @property
    def versions(self) -> Mapping[str, int]:
        return self.signature.versions

    def initial(self, names: Iterable[str]) -> Mapping[str, torch.Tensor]:
        names = tuple(names)
        return self._built.initial(names) if names else {}

    @property
    def order(self) -> tuple[str, ...]:
        return self._built.order

    @cached_property
    def _built(self) -> _Unfilled:
        self.memory.importing()
        built = self.plan.build()
        if built.extras or built.signature != self.signature:
            assert self.plan.key is not None
            self.memory.forget(*self.plan.key)
            raise ArchitectureError(
                f"{self.plan.architecture.label} is not the model that was remembered of it "
                f"({_first_difference(self.signature, built.signature)}); that is forgotten now, "
                "run this again"
            )
        return built


def _first_difference(remembered: Signature, built: Signature) -> str:
    before, now = remembered.spec.by_name, built.spec.by_name
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            return f"{name} was {_told_spec(before.get(name))}, is {_told_spec(now.get(name))}"
    return "ties, modules, heads or versions differ"


def _told_spec(spec: TensorSpec | None) -> str:
    return f"{spec.shape} {spec.dtype}" if spec else "not there"


@dataclass(frozen=True)
class _Like:
    """Another checkpoint's names and shapes; what is not loaded keeps that checkpoint's values."""

    checkpoint: Checkpoint
    heads = None
    order = ()
    extras = MappingProxyType[str, Any]({})

    @cached_property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_tensors(self.checkpoint.specs, ties=self.checkpoint.ties)

    @property
    def versions(self) -> Mapping[str, int]:
        return self.checkpoint.versions

    def initial(self, names: Iterable[str]) -> Mapping[str, Place]:
        return {name: self.checkpoint.place(name) for name in names}


def _blueprint_like(
    architecture: Architecture, arguments: Mapping[str, Any] | None, num_classes: int | None
) -> _Like:
    from surgery.checkpoint import open_checkpoint, read_contents

    if arguments or num_classes is not None:
        raise ArchitectureError(
            f"{architecture.label} has its names and shapes from a file; it takes no arguments "
            "and no number of classes"
        )
    path, key = _file_and_key(architecture.name)
    states = [] if key else [state.key for state in read_contents(path).state_dicts]
    if len(states) > 1:
        raise ArchitectureError(
            f"{architecture.label}: the file holds {len(states)} state dicts; choose one with "
            f"like:{path}#KEY",
            [f"like:{path}#{state or '.'}" for state in states],
        )
    return _Like(open_checkpoint(path, key=key))


def _file_and_key(name: str) -> tuple[Path, str | None]:
    """``file#key`` apart; a file whose own name has a ``#`` is that file."""
    path, _, key = name.partition("#")
    if not key or Path(name).exists():
        return Path(name), None
    return Path(path), key


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
    if _is_module(factory):
        return lambda: copy.deepcopy(factory)
    if not callable(factory):
        raise ArchitectureError(
            f"{text} is a {type(factory).__name__}; expected a function or class that makes a model"
        )
    return factory  # type: ignore[no-any-return]


def _is_module(value: Any) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


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
    with _own_code(str(path)):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _own_code(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            origins = [f"{library}:" for library in (*LIBRARIES, "like")]
            raise ArchitectureError(
                f"there is no module {error.name!r}{did_you_mean(f'{name}:', origins)}"
            ) from error


@contextmanager
def _workplace(architecture: Architecture) -> Iterator[None]:
    """Where an architecture's code runs: stdout is the caller's, so what it prints is on stderr.

    A person's own code finds its neighbours, also those that it imports only when called.
    """
    with redirect_stdout(sys.stderr):
        if architecture.origin != "factory":
            yield
            return
        place = architecture.name.rpartition(":")[0]
        with _on_path(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
            yield


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """``folder`` is searched first; afterwards the path is as it was, whatever was done to it."""
    before = tuple(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _own_code(what: str) -> Iterator[None]:
    """Whatever a person's code raises becomes one line that names the place it was raised at."""
    try:
        yield
    except ArchitectureError:
        raise
    except (Exception, SystemExit) as error:
        raise ArchitectureError(f"{what} raised {_told(error)}") from error


def _told(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}{place}"


def _names(factory: Factory, argument: str) -> bool:
    """Whether it is a parameter of its own; what ``**kwargs`` swallow may be lost in there."""
    parameter = _parameters(factory).get(argument)
    return parameter is not None and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )


def _takes(factory: Factory, argument: str) -> bool:
    parameters = _parameters(factory)
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}


def _call(architecture: Architecture, factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    from torch import nn

    with _own_code(architecture.label):
        _check_arguments(architecture, factory, arguments)
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture.label} returned a {type(model).__name__}; expected a torch.nn.Module"
        )
    _refuse_lazy(architecture, model)
    return model


def _refuse_lazy(architecture: Architecture, model: nn.Module) -> None:
    from torch.nn.parameter import is_lazy

    tensors = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, value in tensors if is_lazy(value)]:
        raise ArchitectureError(
            f"{architecture.label} has lazy layers, whose shapes are not known before the first "
            f"input; run the model once in the factory ({lazy[0]})"
        )


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
