"""Transfers into files: what plain torch and safetensors make of them."""

import safetensors.torch
import torch
import torchvision
from tiny_models import TiedLanguageModel, TinyNet, randomise
from torch import nn

import surgery
from surgery.architectures import find_architecture
from surgery.transfers.tofile import plan_file_transfer


def write(tmp_path, source, factory, name="out.pt", **settings):
    """Transfer a model's weights into what a factory written to a file makes."""
    (tmp_path / "factory.py").write_text(factory)
    surgery.save(source, tmp_path / "old.pt")
    checkpoint = surgery.open_checkpoint(tmp_path / "old.pt")
    architecture = find_architecture(f"{tmp_path / 'factory.py'}:make")
    job = plan_file_transfer(checkpoint, architecture, **settings)
    return job.write(tmp_path / name)


def test_module_versions_survive(tmp_path):
    """MNASNet's load_state_dict raises without them."""
    source = randomise(torchvision.models.mnasnet0_5())
    factory = "import torchvision\ndef make(): return torchvision.models.mnasnet0_5()\n"
    for name in ("out.pt", "out.safetensors"):
        write(tmp_path, source, factory, name)
        state = surgery.open_checkpoint(tmp_path / name).state_dict()
        torchvision.models.mnasnet0_5().load_state_dict(state, strict=True)
    plain = torch.load(tmp_path / "out.pt", weights_only=True)
    torchvision.models.mnasnet0_5().load_state_dict(plain, strict=True)


TIED = """
from tiny_models import TiedLanguageModel as make
"""


def test_a_tie_has_the_loaded_value_whichever_name_fits(tmp_path):
    source = {"embed.weight": torch.zeros(5, 4), "lm_head.weight": torch.full((11, 4), 7.0)}
    write(tmp_path, source, TIED, "out.safetensors")
    model = TiedLanguageModel()
    model.load_state_dict(surgery.open_checkpoint(tmp_path / "out.safetensors").state_dict())
    assert torch.equal(model.embed.weight, torch.full((11, 4), 7.0))
    assert list(safetensors.torch.load_file(tmp_path / "out.safetensors")) != []


SHARED = """
from torch import nn
def make():
    model = nn.Module()
    model.b = model.a = nn.BatchNorm1d(4)
    return model
"""


def test_a_shared_buffer_has_the_loaded_value(tmp_path):
    source = {f"a.{k}": v for k, v in randomise(nn.BatchNorm1d(4)).state_dict().items()}
    write(tmp_path, source, SHARED)
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(written["b.running_mean"], source["a.running_mean"])


EXTRA = """
import torch
class make(torch.nn.Linear):
    def __init__(self): super().__init__(2, 2)
    def get_extra_state(self): return {"scale": 3}
    def set_extra_state(self, state): self.scale = state["scale"]
"""


def test_extra_state_of_the_target_survives_where_the_format_can_hold_it(tmp_path):
    outcome = write(tmp_path, nn.Linear(2, 2), EXTRA)
    assert outcome.loaded == ("weight", "bias")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert written["_extra_state"] == {"scale": 3}


def test_the_state_dict_loads_strictly_into_the_architecture(tmp_path):
    factory = "from tiny_models import TinyNet\ndef make(): return TinyNet(5)\n"
    write(tmp_path, randomise(TinyNet(7)), factory, "out.safetensors")
    TinyNet(5).load_state_dict(safetensors.torch.load_file(tmp_path / "out.safetensors"))
