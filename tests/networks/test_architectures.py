import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torchvision
from tiny_models import TinyNet, randomise

import surgery
from surgery.errors import ArchitectureError
from surgery.networks import building
from surgery.networks.architectures import Architecture, find_architecture, list_architectures
from surgery.networks.blueprints import blueprint
from surgery.networks.building import build
from surgery.networks.describe import describe
from surgery.networks.origins.timm import Timm
from surgery.networks.remembered import arguments_key, open_memory
from surgery.specs import ModelSpec
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\n"
        "from dataclasses import dataclass\n"
        "from functools import partial\n"
        "from helper import WIDTH\n"
        "def make(num_classes=3, width=WIDTH):\n"
        "    last = torch.nn.Linear(width, num_classes)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, width), last)\n"
        "def fixed():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 3))\n"
        "def broken():\n"
        "    raise ValueError('no such\\nthing')\n"
        "def wrong():\n"
        "    return 3\n"
        "number = 7\n"
        "def swallows(**anything):\n"
        "    return fixed()\n"
        "def needs(num_classes):\n"
        "    return make(num_classes)\n"
        "def leaves():\n"
        "    raise SystemExit(0)\n"
        "def talks():\n"
        "    print('building')\n"
        "    return fixed()\n"
        "def late():\n"
        "    from later import Late\n"
        "    return Late(2, 2)\n"
        "def lazy():\n"
        "    return torch.nn.Sequential(torch.nn.LazyLinear(3))\n"
        "def lazy_statistics():\n"
        "    return torch.nn.Sequential(torch.nn.LazyBatchNorm1d(affine=False))\n"
        "net = fixed()\n"
        "half_made = partial(make, num_classes=4)\n"
        "class Maker:\n"
        "    def __call__(self, width: int = WIDTH):\n"
        "        return make(width=width)\n"
        "maker = Maker()\n"
    )
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")
    (tmp_path / "later.py").write_text("from torch.nn import Linear as Late\n")
    return path


@pytest.mark.parametrize(
    ("text", "label", "also"),
    [
        pytest.param("timm:resnet18", "timm:resnet18", "", id="timm"),
        pytest.param("torchvision:resnet18", "torchvision:resnet18", "", id="torchvision"),
        pytest.param("resnet18", "timm:resnet18", "torchvision", id="bare-in-both"),
        pytest.param("alexnet", "torchvision:alexnet", "", id="bare-in-torchvision-alone"),
        pytest.param("convnext_atto", "timm:convnext_atto", "", id="bare-in-timm-alone"),
        pytest.param("pkg.models:make", "pkg.models:make", "", id="module-factory"),
        pytest.param("a/b.py:make", "a/b.py:make", "", id="file-factory"),
        pytest.param("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k", "", id="timm-tag"),
        pytest.param("like:x.safetensors", "like:x.safetensors", "", id="like"),
    ],
)
def test_find(text, label, also):
    found = find_architecture(text)
    assert (found.label, found.also) == (label, also)


def test_the_first_line_of_a_report_says_that_another_library_has_it():
    assert str(find_architecture("resnet18")) == "timm:resnet18 (also in torchvision)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("resnet81", "neither timm nor torchvision .*did you mean resnet", id="bare"),
        pytest.param("timm:resnet81", "timm has no architecture 'resnet81'; did you", id="timm"),
        pytest.param("torchvision:vgg", "torchvision has no .*did you mean vgg", id="torchvision"),
        pytest.param("nets.py", r"path/file\.py:factory", id="file-without-factory"),
        pytest.param("timm:resnet50.a1_in9k", "timm has no architecture", id="timm-tag"),
        pytest.param(":x", "':x' names no architecture; expected timm:NAME", id="no-origin"),
        pytest.param("models:", "'models:' names no architecture", id="no-factory"),
        pytest.param("hf-hub:timm/x", "nothing is downloaded here", id="hub"),
        pytest.param("hf_hub:timm/x", "nothing is downloaded here", id="hub-other-spelling"),
    ],
)
def test_names_that_are_not_known(text, message):
    with pytest.raises(ArchitectureError, match=message):
        find_architecture(text)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        pytest.param("resnet18", "torchvision:resnet18", id="part-of-a-name"),
        pytest.param("timm:vit_tiny_*_224", "timm:vit_tiny_patch16_224", id="with-its-library"),
        pytest.param("*", "timm:resnet18", id="all"),
        pytest.param("timm:resnet[12]8", "timm:resnet18", id="a-set"),
        pytest.param("resnet1?", "torchvision:resnet18", id="one-character"),
        pytest.param("/^timm:.*(et|le)18$/", "timm:resnet18", id="a-regular-expression"),
    ],
)
def test_list(pattern, name):
    assert name in list_architectures(pattern)


def test_a_list_that_is_empty():
    assert list_architectures("no-such-thing") == ()


class TestOwnFactories:
    def test_a_file_with_neighbours(self, own_file):
        model = build(find_architecture(f"{own_file}:make"), arguments={"width": 5})
        assert model[1].weight.shape == (3, 5)

    def test_number_of_classes_as_an_argument(self, own_file):
        assert build(find_architecture(f"{own_file}:make"), num_classes=9)[1].out_features == 9

    def test_number_of_classes_where_the_factory_takes_none(self, own_file):
        assert build(find_architecture(f"{own_file}:fixed"), num_classes=9)[1].out_features == 9

    @pytest.mark.parametrize("name", ["make", "fixed", "swallows", "needs", "net"])
    def test_the_number_of_classes_always_takes_effect(self, own_file, name):
        architecture = find_architecture(f"{own_file}:{name}")
        assert build(architecture, num_classes=9)[1].out_features == 9
        assert isinstance(build(architecture, num_classes=0)[1], torch.nn.Identity)

    def test_a_module_is_taken_as_it_is(self, own_file):
        assert build(find_architecture(f"{own_file}:net"))[1].out_features == 3
        with pytest.raises(ArchitectureError, match=r"takes \(\)"):
            build(find_architecture(f"{own_file}:net"), arguments={"width": 3})

    def test_a_module_of_a_package_is_left_alone(self, own_file, monkeypatch):
        monkeypatch.syspath_prepend(own_file.parent)
        own_file.rename(own_file.with_name("kept_nets.py"))
        assert build(find_architecture("kept_nets:net"), num_classes=9)[1].out_features == 9
        assert build(find_architecture("kept_nets:net"))[1].out_features == 3

    def test_neighbours_are_found_when_the_factory_runs(self, own_file):
        before = list(sys.path)
        assert build(find_architecture(f"{own_file}:late")).in_features == 2
        assert sys.path == before

    def test_a_file_may_edit_the_path(self, own_file):
        before = list(sys.path)
        with own_file.open("a") as file:
            file.write("import sys\nsys.path.clear()\n")
        build(find_architecture(f"{own_file}:fixed"))
        assert sys.path == before

    def test_what_it_prints_is_not_the_result(self, own_file, capsys):
        build(find_architecture(f"{own_file}:talks"))
        assert capsys.readouterr() == ("", "building\n")

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            pytest.param("mak", {}, r"nets\.py has no 'mak'; did you mean make\?", id="name"),
            pytest.param("number", {}, "is a int; expected a function or class", id="no-function"),
            pytest.param("wrong", {}, "returned a int; expected a torch.nn.Module", id="no-module"),
            pytest.param(
                "broken", {}, r"broken raised ValueError: no such \(nets\.py:11\)", id="raises"
            ),
            pytest.param("leaves", {}, r"leaves raised SystemExit: 0 \(nets", id="exits"),
            pytest.param(
                "lazy", {}, r"py:lazy: 0\.weight is lazy.*run .* in the factory", id="lazy"
            ),
            pytest.param(
                "lazy_statistics", {}, r"lazy_statistics: 0\.running_mean is lazy", id="buffers"
            ),
            pytest.param(
                "make",
                {"widht": 3},
                r"takes \(num_classes=3, width=6\).*mean width\?",
                id="argument",
            ),
            pytest.param(
                "half_made", {"widht": 3}, r"make takes \(num_cl.*mean width\?", id="partial"
            ),
            pytest.param(
                "maker", {"widht": 3}, r"__call__ takes \(width=6\).*mean width\?", id="callable"
            ),
            pytest.param("needs", {}, r"missing 1.*; needs takes \(num_classes\)$", id="missing"),
        ],
    )
    def test_what_goes_wrong_is_one_line(self, own_file, name, arguments, message):
        with pytest.raises(ArchitectureError, match=message) as caught:
            blueprint(find_architecture(f"{own_file}:{name}"), arguments=arguments)
        assert "\n" not in str(caught.value)

    def test_a_head_that_cannot_be_replaced_names_the_architecture(self, own_file):
        with pytest.raises(ArchitectureError, match=r"py:lazy: the model is not initialised yet"):
            build(find_architecture(f"{own_file}:lazy"), num_classes=3)

    def test_files_and_modules_that_are_not_there(self, tmp_path):
        with pytest.raises(ArchitectureError, match="there is no file"):
            build(find_architecture(f"{tmp_path}/none.py:make"))
        with pytest.raises(ArchitectureError, match="there is no module 'no_such_package'"):
            build(find_architecture("no_such_package.models:make"))

    def test_a_misspelled_library(self):
        with pytest.raises(ArchitectureError, match=r"no module 'tim'; did you mean timm:\?"):
            build(find_architecture("tim:resnet50"))

    def test_a_file_that_cannot_be_imported(self, tmp_path):
        (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
        with pytest.raises(
            ArchitectureError, match=r"bad\.py raised ModuleNotFoundError.*bad.py:1"
        ):
            build(find_architecture(f"{tmp_path}/bad.py:make"))

    def test_a_module_in_the_working_folder(self, own_file, monkeypatch):
        monkeypatch.chdir(own_file.parent)
        assert build(find_architecture("nets:fixed"))[1].out_features == 3


@pytest.mark.parametrize(
    ("name", "argument", "constructor", "nearest"),
    [
        pytest.param("timm:resnet18", "base_widht", "ResNet", "base_width", id="timm"),
        pytest.param("timm:vit_tiny_patch16_224", "deph", "VisionTransformer", "depth", id="vit"),
        pytest.param("torchvision:resnet18", "group", "ResNet", "groups", id="torchvision"),
    ],
)
def test_unknown_arguments_of_a_librarys_model_are_named(name, argument, constructor, nearest):
    """The factory takes any keyword, and hands it to a class: that one's signature counts."""
    with pytest.raises(ArchitectureError) as caught:
        build(find_architecture(name), arguments={argument: 3})
    message = caught.value.message
    assert message.startswith(f"{name} raised TypeError: {constructor}")
    assert f"unexpected keyword argument '{argument}'" in message
    assert f"{constructor} takes (" in message
    assert message.endswith(f"did you mean {nearest}?")


def test_an_argument_that_a_base_class_refuses(monkeypatch):
    class Wide(TinyNet):
        def __init__(self, **more):
            super().__init__(**more)

    module = ModuleType("kept_here")
    module.Wide = Wide
    monkeypatch.setitem(sys.modules, "kept_here", module)
    with pytest.raises(ArchitectureError, match=r"TinyNet takes \(.*did you mean width\?"):
        build(find_architecture("kept_here:Wide"), arguments={"widht": 3})


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
class TestLibraries:
    def test_no_classes_are_features(self, name):
        names = describe(build(find_architecture(name), num_classes=0)).by_name
        assert not [n for n in names if n.startswith("fc.")]

    def test_the_number_of_classes_is_given_once(self, name):
        with pytest.raises(ArchitectureError, match="num_classes is given twice"):
            build(find_architecture(name), arguments={"num_classes": 3}, num_classes=4)

    @pytest.mark.parametrize("argument", ["pretrained", "weights"])
    def test_nothing_is_downloaded(self, name, argument):
        with pytest.raises(ArchitectureError, match="nothing is downloaded here"):
            build(find_architecture(name), arguments={argument: True})
        build(find_architecture(name), arguments={argument: None})


class TestBlueprint:
    def test_the_spec_is_the_librarys(self):
        target = blueprint(find_architecture("timm:resnet18"), num_classes=7)
        assert target.spec == describe(timm.create_model("resnet18", num_classes=7))

    def test_initial_values_follow_the_seed_and_nothing_else(self):
        architecture = find_architecture("torchvision:resnet18")
        names = ["fc.weight", "fc.bias"]
        one = blueprint(architecture, seed=4).initial(names)
        more = blueprint(architecture, seed=4).initial([*names, "conv1.weight"])
        other = blueprint(architecture, seed=5).initial(names)
        assert torch.equal(one["fc.weight"], more["fc.weight"])
        assert not torch.equal(one["fc.weight"], other["fc.weight"])

    def test_another_file_gives_names_and_values(self, tmp_path):
        model = randomise(TinyNet())
        surgery.save(model, tmp_path / "like.safetensors")
        target = blueprint(find_architecture(f"like:{tmp_path / 'like.safetensors'}"))
        assert set(target.spec.by_name) == set(model.state_dict())
        checkpoint = surgery.open_checkpoint(tmp_path / "like.safetensors")
        assert target.initial(["fc.bias"]) == {"fc.bias": checkpoint.place("fc.bias")}
        assert target.versions == checkpoint.versions != {}
        assert (target.find_heads(), dict(target.extras)) == (("fc",), {})

    def test_one_state_dict_of_another_file(self, tmp_path):
        state = {"w": torch.ones(2)}
        torch.save({"net": state, "ema": {"w": torch.zeros(2)}}, tmp_path / "two.pt")
        with pytest.raises(ArchitectureError, match=r"like:.*two\.pt#ema"):
            blueprint(find_architecture(f"like:{tmp_path}/two.pt"))
        architecture = find_architecture(f"like:{tmp_path}/two.pt#ema")
        assert architecture.stem == "like-two"
        ema = surgery.open_checkpoint(tmp_path / "two.pt", key="ema")
        assert blueprint(architecture).initial(["w"]) == {"w": ema.place("w")}

    def test_another_file_takes_no_arguments(self, tmp_path):
        with pytest.raises(ArchitectureError, match="takes no arguments"):
            blueprint(find_architecture(f"like:{tmp_path}/x.pt"), num_classes=3)

    def test_detection_models_download_no_backbone(self):
        target = blueprint(Architecture("torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn"))
        assert any(name.startswith("backbone.body") for name in target.spec.by_name)

    def test_quiet_about_initialisations_to_come(self):
        assert blueprint(Architecture("torchvision", "googlenet")).spec.parameters

    def test_only_what_is_asked_for_has_values(self):
        target = blueprint(Architecture("torchvision", "resnet18"))
        assert set(target.initial(["fc.weight", "bn1.running_var"])) == {
            "bn1.running_var",
            "fc.weight",
        }
        assert target.initial([]) == {}

    def test_what_is_no_tensor_is_extra(self, tmp_path):
        (tmp_path / "nets.py").write_text(
            "import torch\n"
            "class make(torch.nn.Linear):\n"
            "    _version = 5\n"
            "    def __init__(self): super().__init__(2, 2)\n"
            "    def get_extra_state(self): return {'scale': 3}\n"
            "    def set_extra_state(self, state): pass\n"
        )
        target = blueprint(find_architecture(f"{tmp_path}/nets.py:make"))
        assert target.extras == {"_extra_state": {"scale": 3}}
        assert target.versions == {"": 5}
        assert list(target.spec.by_name) == ["weight", "bias"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder, in a process where nobody but surgery has imported the libraries."""
    monkeypatch.setattr("surgery.networks.remembered.code._any_imported", lambda: False)
    monkeypatch.setattr(
        "surgery.networks.remembered.code._imported", None
    )  # what is told is forgotten
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_building(monkeypatch):
    """From when it is called on, nothing can be built."""

    def fail(*_, **__):
        raise AssertionError("built, where it should have been remembered")

    return lambda: monkeypatch.setattr(building, "build", fail)


@pytest.fixture
def builds(monkeypatch):
    """The architectures that were built, in order."""
    built = []

    def note(architecture, **settings):
        built.append(architecture)
        return build(architecture, **settings)

    monkeypatch.setattr(building, "build", note)
    return built


def key_of(architecture):
    """What a signature of it is remembered under, built as it comes."""
    return ("signature", architecture.origin, architecture.name, arguments_key({}), None)


def kept(folder: Path) -> int:
    return len(list(folder.iterdir())) if folder.exists() else 0


VIT = Architecture("timm", "test_vit")
EMPTY = ModelSpec((), ()).to_dict()


class TestRemembered:
    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("timm:vit_tiny_patch16_224", {}),
            ("timm:vit_tiny_patch16_224", {"arguments": {"img_size": (96, 64), "num_classes": 5}}),
            ("timm:vit_tiny_patch16_224", {"arguments": {"drop_rate": 0.5, "global_pool": ""}}),
            ("timm:swin_tiny_patch4_window7_224", {"num_classes": 0}),
            ("timm:beit_base_patch16_224", {"arguments": {"depth": 2}}),
            ("timm:deit_tiny_distilled_patch16_224", {"num_classes": 3}),
            ("timm:coat_tiny", {}),  # modules under two names
            ("timm:convnext_atto.d2_in1k", {}),
            ("timm:efficientnet_lite0", {"arguments": {"features_only": True}}),
            ("timm:resnet18", {"arguments": {"pretrained": False}, "num_classes": 7}),
            ("torchvision:resnet18", {"num_classes": 0}),
            ("torchvision:mnasnet0_5", {}),  # of version 2
            ("torchvision:googlenet", {}),  # auxiliary heads
            ("torchvision:swin_t", {"num_classes": 2}),
            ("torchvision:lraspp_mobilenet_v3_large", {"arguments": {"num_classes": 4}}),
        ],
    )
    def test_is_what_was_built(self, folder, no_building, name, settings):
        architecture = find_architecture(name)
        names = kept(folder)
        built = blueprint(architecture, **settings)
        assert kept(folder) == names + 1
        no_building()
        remembered = blueprint(architecture, **settings)
        assert remembered.spec == built.spec
        assert remembered.spec.ties == built.spec.ties
        assert remembered.find_heads() == built.find_heads()
        assert list(remembered.versions.items()) == list(built.versions.items())
        assert remembered.extras == built.extras == {}
        assert remembered.initial([]) == {}

    @pytest.mark.parametrize("name", ["timm:test_vit", "torchvision:shufflenet_v2_x0_5"])
    def test_has_the_initial_values_of_what_was_built(self, folder, builds, name):
        architecture = find_architecture(name)
        built = blueprint(architecture, seed=3)
        names = list(built.spec.by_name)
        remembered = blueprint(architecture, seed=3)
        assert len(builds) == 1
        values = remembered.initial(names)
        assert set(values) == set(names)
        for tensor, value in built.initial(names).items():
            assert torch.equal(values[tensor], value), tensor
        again = remembered.initial(names[-2:])
        assert all(torch.equal(again[tensor], values[tensor]) for tensor in names[-2:])
        assert len(builds) == 2

    def test_what_it_is_built_with_counts(self, folder, no_building):
        settings = [
            {},
            {"num_classes": 3},
            {"num_classes": 0},
            {"arguments": {"num_classes": 3}},
            {"arguments": {"depth": 1}},
            {"arguments": {"depth": 1, "num_classes": 3}},
        ]
        built = [blueprint(VIT, **setting) for setting in settings]
        assert kept(folder) == len(settings)
        no_building()
        for setting, target in zip(settings, built, strict=True):
            assert blueprint(VIT, **setting).spec == target.spec

    def test_a_seed_makes_values_only(self, folder, no_building):
        blueprint(VIT, seed=1)
        no_building()
        blueprint(VIT, seed=2)
        assert kept(folder) == 1

    def test_arguments_without_an_exact_spelling(self, folder):
        arguments = {"act_layer": torch.nn.ReLU}
        for _ in range(2):
            assert blueprint(VIT, arguments=arguments).spec.parameters
        assert kept(folder) == 0

    def test_mistakes_are_told_as_ever(self, folder):
        blueprint(VIT)
        for _ in range(2):
            with pytest.raises(ArchitectureError, match="nothing is downloaded here"):
                blueprint(VIT, arguments={"pretrained": True})
            with pytest.raises(ArchitectureError, match="num_classes is given twice"):
                blueprint(VIT, arguments={"num_classes": 3}, num_classes=3)
            with pytest.raises(ArchitectureError, match="raised TypeError"):
                blueprint(VIT, arguments={"no_such_argument": 3})
        assert kept(folder) == 1

    def test_ones_own_code_and_files_are_not_remembered(self, folder, own_file, tmp_path):
        surgery.save(TinyNet(), tmp_path / "like.safetensors")
        for name in (f"{own_file}:make", f"like:{tmp_path}/like.safetensors"):
            before = blueprint(find_architecture(name)).spec
            assert blueprint(find_architecture(name)).spec == before
        own_file.write_text(own_file.read_text().replace("Linear(8, width)", "Linear(9, width)"))
        assert blueprint(find_architecture(f"{own_file}:make")).spec.tensors[0].shape == (6, 9)
        assert kept(folder) == 0

    def test_what_has_more_than_tensors_is_not_remembered(self, folder, monkeypatch):
        class Quantised(torch.nn.Linear):
            def get_extra_state(self):
                return b"packed"

            def set_extra_state(self, state):
                pass

        monkeypatch.setattr(Timm, "build", lambda *_, **__: Quantised(2, 2))
        for _ in range(2):
            assert blueprint(VIT).extras == {"_extra_state": b"packed"}
        assert kept(folder) == 0

    def test_another_model_than_remembered_is_refused_once(self, folder, monkeypatch):
        """A constructor that reads a file, or that someone has patched."""
        right = blueprint(VIT).spec
        build = Timm.build
        monkeypatch.setattr(Timm, "build", lambda self, name: build(self, name, img_size=320))
        stale = blueprint(VIT)
        assert stale.spec == right
        with pytest.raises(
            ArchitectureError, match=r"timm:test_vit is not the model.*pos_embed was \(1, 101, 64\)"
        ):
            stale.initial(["head.bias"])
        assert kept(folder) == 0
        fresh = blueprint(VIT)
        assert fresh.spec.by_name["pos_embed"].shape == (1, 401, 64)
        assert set(fresh.initial(["pos_embed"])) == {"pos_embed"}

    @pytest.mark.parametrize("change", ["heads", "versions", "types"])
    def test_every_difference_counts(self, folder, change):
        blueprint(VIT)
        remembered = open_memory().recall(*key_of(VIT))
        match change:
            case "heads":
                remembered["heads"] = []
            case "versions":
                remembered["versions"]["head"] = 9
            case "types":
                remembered["spec"]["modules"][0]["types"] = ["Other"]
        open_memory().keep(remembered, *key_of(VIT))
        with pytest.raises(ArchitectureError, match="is not the model that was remembered"):
            blueprint(VIT).initial(["head.bias"])

    @pytest.mark.parametrize(
        "value",
        [
            [],
            {},
            {"spec": {}},
            {"spec": EMPTY, "heads": [], "versions": 3},
            {"spec": EMPTY, "heads": "head", "versions": {}},
            {"spec": EMPTY, "heads": [], "versions": {"": float("inf")}},
            "x",
        ],
        ids=str,
    )
    def test_a_value_of_another_form_is_built_again(self, folder, builds, value):
        blueprint(VIT)
        open_memory().keep(value, *key_of(VIT))
        blueprint(VIT)
        blueprint(VIT)
        assert len(builds) == 2

    def test_a_lie_about_a_dtype_decides_no_value(self, folder):
        blueprint(VIT)
        remembered = open_memory().recall(*key_of(VIT))
        (row,) = (row for row in remembered["spec"]["tensors"] if row[0] == "head.weight")
        row[2] = "float64"
        open_memory().keep(remembered, *key_of(VIT))
        assert blueprint(VIT).spec.by_name["head.weight"].dtype == "float64"
        with pytest.raises(ArchitectureError, match=r"head.weight was .*float64"):
            blueprint(VIT).initial(["head.weight"])
        assert blueprint(VIT).spec.by_name["head.weight"].dtype == "float32"

    def test_a_library_that_others_have_imported_is_not_remembered(self, folder, monkeypatch):
        blueprint(VIT)
        monkeypatch.setattr("surgery.networks.remembered.code._any_imported", lambda: True)
        monkeypatch.setattr("surgery.networks.remembered.code._imported", None)
        monkeypatch.setattr(Timm, "build", lambda *_: torch.nn.Linear(2, 2))
        assert blueprint(VIT).spec.by_name["weight"].shape == (2, 2)
        assert kept(folder) == 1


REMEMBERED = """
import json, sys
from surgery.networks.architectures import find_architecture
from surgery.networks.blueprints import blueprint
target = blueprint(find_architecture(sys.argv[1]))
told = [len(target.spec.tensors), target.find_heads(), dict(target.versions), dict(target.extras)]
heavy = sorted({"torch", "timm", "torchvision", "numpy"} & set(sys.modules))
print(json.dumps([told, heavy]))
"""


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "torchvision:resnet18"])
def test_the_second_time_nothing_heavy_is_imported(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SURGERY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(surgery.__file__).parents[1]))

    def told():
        command = [sys.executable, "-c", REMEMBERED, name]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    first, imported = told()
    assert "torch" in imported
    assert told() == [first, []]


def test_a_transfer_by_memory_writes_the_same_file(tmp_path, folder, no_building):
    model = randomise(timm.create_model("test_vit"))
    surgery.save(model, tmp_path / "old.safetensors")
    source = surgery.open_checkpoint(tmp_path / "old.safetensors")
    for name in ("built.safetensors", "remembered.safetensors"):
        plan(TransferRequest(source=source, target="timm:test_vit")).write(tmp_path / name)
        no_building()
    built, remembered = tmp_path / "built.safetensors", tmp_path / "remembered.safetensors"
    assert remembered.read_bytes() == built.read_bytes()


def test_every_torchvision_name_has_a_builder():
    known = {name.partition(":")[2] for name in list_architectures("torchvision:*")}
    assert known == set(torchvision.models.list_models())
