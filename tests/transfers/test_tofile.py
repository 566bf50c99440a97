"""Transfers into files: what plain torch and safetensors make of them."""

import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import torchvision
from tiny_models import TiedLanguageModel, TinyNet, randomise
from torch import nn

import surgery
from surgery.errors import CheckpointError
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest


def write(tmp_path, source, factory, name="out.pt", **settings):
    """Transfer a model's weights into what a factory written to a file makes."""
    (tmp_path / "factory.py").write_text(factory)
    surgery.save(source, tmp_path / "old.pt")
    checkpoint = surgery.open_checkpoint(tmp_path / "old.pt")
    architecture = f"{tmp_path / 'factory.py'}:make"
    job = plan(TransferRequest(source=checkpoint, target=architecture, **settings))
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
    write(tmp_path, source, TIED, "out.safetensors", fresh="body")
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


FULL = """
import resource, signal, sys
import surgery
from surgery.networks.architectures import find_architecture
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
old, out, most = sys.argv[1:]
job = plan(TransferRequest(source=surgery.open_checkpoint(old), target=f"like:{old}"))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    job.write(out, max_shard_bytes=int(most) or None)
except surgery.SurgeryError as error:
    sys.exit(error.message)
"""


@pytest.mark.parametrize(
    ("name", "most"), [("out.safetensors", 0), ("out.pt", 0), ("out.safetensors", 60_000)]
)
def test_a_file_that_may_not_grow_leaves_the_old_one(name, most, tmp_path):
    surgery.save({"a": torch.ones(30_000), "b": torch.ones(15_000)}, tmp_path / "old.pt")
    surgery.save({"mine": torch.ones(3)}, tmp_path / name)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "old.pt"), str(tmp_path / name), str(most)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "cannot be written: File too large" in ran.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("most", [None, 700_000])
def test_a_full_disk_leaves_the_old_file(most, reserved, small_disk, tmp_path, monkeypatch):
    surgery.save({"a": torch.ones(150_000), "b": torch.ones(150_000)}, tmp_path / "old.pt")
    out = surgery.save({"mine": torch.ones(3)}, small_disk / "out.safetensors")
    if not reserved:
        monkeypatch.delattr("os.posix_fallocate")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            surgery.convert(tmp_path / "old.pt", out, max_shard_size=most)
        assert [file.name for file in small_disk.iterdir()] == ["out.safetensors"]
        assert surgery.open_checkpoint(out).tensor("mine").tolist() == [1, 1, 1]
