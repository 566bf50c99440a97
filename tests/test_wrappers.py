import pytest

from surgery.wrappers import paths_of, unwrap_name, unwrap_names


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        pytest.param("module.fc.weight", "fc.weight", id="ddp"),
        pytest.param("_orig_mod.module.fc.weight", "fc.weight", id="compile-around-ddp"),
        pytest.param("module._orig_mod.fc.weight", "fc.weight", id="ddp-around-compile"),
        pytest.param(
            "layers.0._checkpoint_wrapped_module.mlp.weight", "layers.0.mlp.weight", id="mid-key"
        ),
        pytest.param("_fsdp_wrapped_module.fc.weight", "fc.weight", id="fsdp"),
        pytest.param("_forward_module.fc.weight", "fc.weight", id="fabric"),
        pytest.param("cpb_mlp.0.weight", "cpb_mlp.0.weight", id="text-inside-a-segment"),
        pytest.param("my_module.fc", "my_module.fc", id="segment-that-ends-in-module"),
        pytest.param("a.module", "a.module", id="a-leaf-stays"),
    ],
)
def test_wrapper_segments_are_dropped_whole_or_not_at_all(name, clean):
    assert unwrap_name(name) == clean


def test_names_that_would_become_one_stay_as_they_are():
    names = ["module.fc.weight", "fc.weight", "module.bias"]
    assert unwrap_names(names) == {
        "module.fc.weight": "module.fc.weight",
        "fc.weight": "fc.weight",
        "module.bias": "bias",
    }


def test_paths_of_a_name():
    assert list(paths_of("layer1.0.weight")) == ["layer1", "layer1.0", "layer1.0.weight"]
    assert list(paths_of("weight")) == ["weight"]
    assert list(paths_of("")) == [""]
    assert list(paths_of("a..b")) == ["a", "a.", "a..b"]
