import pytest
import torch
from tiny_models import TinyNet, randomise

import surgery
from surgery.errors import SurgeryError
from surgery.transfers import plan_transfer
from surgery.transfers.planning import plan
from surgery.transfers.request import TransferRequest


def test_class_rows_give_the_sliced_logits():
    source, model = randomise(TinyNet(7)).double().eval(), TinyNet(3).double().eval()
    outcome = surgery.transfer(source, model, resize={"fc": ("class-rows", {0: 6, 1: 2, 2: 0})})
    assert outcome.resized == ("fc.weight", "fc.bias")
    assert outcome.loaded_fraction == 1.0
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images)[:, [6, 2, 0]], rtol=1e-14, atol=0)


def test_other_classes_stay_fresh_and_do_not_count(tmp_path):
    source, model = randomise(TinyNet(7)), randomise(TinyNet(5), 3)
    initial = model.fc.weight.detach().clone()
    outcome = surgery.transfer(source, model, resize=["fc=class-rows:1=6,3=0"])
    assert torch.equal(model.fc.weight[[1, 3]], source.fc.weight[[6, 0]])
    assert torch.equal(model.fc.weight[[0, 2, 4]], initial[[0, 2, 4]])
    total = sum(p.numel() for p in model.parameters())
    assert outcome.loaded_fraction == pytest.approx(1 - 3 * 9 / total, abs=1e-15)
    step = outcome.plan.by_target["fc.weight"]
    assert step.reason == "2 of 5 classes from 7, 3 fresh"

    (tmp_path / "make.py").write_text("from tiny_models import TinyNet as make\n")
    surgery.save(source, tmp_path / "old.pt")
    job = plan(
        TransferRequest(
            source=surgery.open_checkpoint(tmp_path / "old.pt"),
            target=f"{tmp_path / 'make.py'}:make",
            num_classes=5,
            resize=["fc=class-rows:1=6,3=0"],
        )
    )
    job.write(tmp_path / "new.pt")
    written = torch.load(tmp_path / "new.pt", weights_only=True)["fc.weight"]
    assert torch.equal(written[[1, 3]], source.fc.weight[[6, 0]])
    assert written[[0, 2, 4]].abs().max() < 1  # the layer's own, and no leftover memory
    assert len(written[[0, 2, 4]].unique()) == 24


def test_equal_counts_are_no_equal_classes():
    source, model = randomise(TinyNet(3)), TinyNet(3)
    surgery.transfer(source, model, resize=["fc=class-rows:0=2,1=1,2=0"])
    assert torch.equal(model.fc.weight, source.fc.weight.flip(0))


def test_pairs_from_a_file(tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("# new = old\n0 = 6\n\n1=2  # the dog\n2 = 0\n")
    source, model = randomise(TinyNet(7)), TinyNet(3)
    surgery.transfer(source, model, resize=[f"fc=class-rows:file={rows}"])
    assert torch.equal(model.fc.weight, source.fc.weight[[6, 2, 0]])
    rows.write_text("0 = 6\n1 -> 2\n")
    with pytest.raises(SurgeryError, match=r"rows\.txt:2: expected NEW=OLD"):
        surgery.transfer(source, model, resize=[f"fc=class-rows:file={rows}"])


def test_equal_labels_keep_their_rows(tmp_path):
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("cat\ndog\ncow\n")
    new.write_text("dog\nowl\ncat\n")
    source, model = randomise(TinyNet(3)), TinyNet(3)
    asked = {"fc": ("class-rows", {"old": old, "new": new})}
    outcome = surgery.transfer(source, model, resize=asked)
    assert torch.equal(model.fc.weight[[0, 2]], source.fc.weight[[1, 0]])
    assert outcome.plan.by_target["fc.bias"].method.initial == 1
    with pytest.raises(SurgeryError, match="fits nothing") as caught:
        plan_transfer(TinyNet(7), model, resize=asked)
    assert "fc.weight: 3 old labels for 7 classes" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("fc=class-rows", "expected NEW=OLD pairs"),
        ("fc=class-rows:0=a", "expected NEW=OLD class numbers"),
        ("fc=class-rows:0=7", "0=7: there are 5 new classes and 7 old ones"),
        ("fc=class-rows:0=1,00=2", "the new class 0 is given more than once"),
        ("fc=class-rows:file=nowhere.txt", "nowhere.txt: cannot be read: No such file"),
        ("stem=class-rows:0=1,9=1", "there are 8 new classes"),
    ],
)
def test_pairs_that_cannot_be(asked, message):
    with pytest.raises(SurgeryError) as caught:
        plan_transfer(TinyNet(7), TinyNet(5), resize=[asked])
    assert message in str(caught.value)


def test_never_without_being_asked():
    plan = plan_transfer(TinyNet(7), TinyNet(5), resize="auto")
    assert plan.names("fresh") == ("fc.weight", "fc.bias")
