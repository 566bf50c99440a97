import sys

import pytest
import timm
import torch
import torchvision
from tiny_models import TinyNet, randomise

import surgery
from surgery.architectures import (
    Architecture,
    blueprint,
    build,
    find_architecture,
    list_architectures,
)
from surgery.describe import describe
from surgery.errors import ArchitectureError


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\n"
        "from dataclasses import dataclass\n"
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
        "net = fixed()\n"
    )
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")
    (tmp_path / "later.py").write_text("from torch.nn import Linear as Late\n")
    return path


@pytest.mark.parametrize(
    ("text", "label", "also"),
    [
        pytest.param("timm:resnet18", "timm:resnet18", "", id="timm"),
        pytest.param("torchvision:resnet18", "torchvision:resnet18", "", id="torchvision"),
        pytest.param("resnet18", "timm:resnet18", "torchvision:resnet18", id="bare-in-both"),
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


def test_the_first_line_of_a_report_says_that_another_library_has_one_too():
    assert str(find_architecture("resnet18")) == "timm:resnet18 (torchvision:resnet18 has one too)"


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
                "broken", {}, r"broken raised ValueError: no such \(nets\.py:10\)", id="raises"
            ),
            pytest.param("leaves", {}, r"leaves raised SystemExit: 0 \(nets", id="exits"),
            pytest.param("lazy", {}, r"lazy layers.*\(0\.weight\)", id="lazy"),
            pytest.param(
                "make",
                {"widht": 3},
                r"takes \(num_classes=3, width=6\).*mean width\?",
                id="argument",
            ),
        ],
    )
    def test_what_goes_wrong_is_one_line(self, own_file, name, arguments, message):
        with pytest.raises(ArchitectureError, match=message) as caught:
            build(find_architecture(f"{own_file}:{name}"), arguments=arguments)
        assert "\n" not in str(caught.value)

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


def test_unknown_arguments_of_a_librarys_model_are_named():
    with pytest.raises(ArchitectureError, match="timm:resnet18 raised TypeError.*widht"):
        build(Architecture("timm", "resnet18"), arguments={"widht": 3})


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
        assert torch.equal(target.initial(["fc.bias"])["fc.bias"], model.fc.bias)

    def test_one_state_dict_of_another_file(self, tmp_path):
        state = {"w": torch.ones(2)}
        torch.save({"net": state, "ema": {"w": torch.zeros(2)}}, tmp_path / "two.pt")
        with pytest.raises(ArchitectureError, match=r"like:.*two\.pt#ema"):
            blueprint(find_architecture(f"like:{tmp_path}/two.pt"))
        architecture = find_architecture(f"like:{tmp_path}/two.pt#ema")
        assert architecture.stem == "like-two"
        assert blueprint(architecture).initial(["w"])["w"].tolist() == [0, 0]

    def test_another_file_takes_no_arguments(self, tmp_path):
        with pytest.raises(ArchitectureError, match="takes no arguments"):
            blueprint(find_architecture(f"like:{tmp_path}/x.pt"), num_classes=3)

    def test_detection_models_download_no_backbone(self):
        target = blueprint(Architecture("torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn"))
        assert any(name.startswith("backbone.body") for name in target.spec.by_name)

    def test_quiet_about_initialisations_to_come(self):
        assert blueprint(Architecture("torchvision", "googlenet")).spec.parameters


def test_every_torchvision_name_has_a_builder():
    known = {name.partition(":")[2] for name in list_architectures("torchvision:*")}
    assert known == set(torchvision.models.list_models())
