import json
import math
import sys

import numpy as np
import pytest
import torch
from tiny_models import TinyNet
from torch import nn

import surgery
from surgery.errors import CheckpointError, TrainingError
from surgery.training.recorder import Recorder


@pytest.fixture
def optimizer():
    return surgery.build_optimizer(TinyNet(), "base optimizer=sgd lr=0.1\nfc lr*=10")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestSteps:
    def test_rates_loss_and_metrics_of_every_step(self, optimizer, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl")
        recorder.step(loss=torch.tensor(2.5, requires_grad=True), accuracy=np.float32(0.5))
        for group in optimizer.param_groups:
            group["lr"] /= 2
        recorder.step(loss=2, seen=64)
        first, second = recorder.records
        assert (first.step, first.groups, first.rates) == (1, ("stem..blocks", "fc"), (0.1, 1.0))
        assert (first.loss, first.metrics) == (2.5, (("accuracy", 0.5),))
        assert (second.step, second.rate("fc"), second.loss) == (2, 0.5, 2.0)
        assert lines(tmp_path / "run.jsonl") == [record.to_dict() for record in (first, second)]
        assert lines(tmp_path / "run.jsonl")[1] == {
            "step": 2,
            "loss": 2.0,
            "rates": {"stem..blocks": 0.05, "fc": 0.5},
            "metrics": {"seen": 64.0},
        }

    def test_a_line_is_on_the_disk_after_each_step(self, optimizer, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl")
        for count in range(1, 4):
            recorder.step(loss=count)
            assert len(lines(tmp_path / "run.jsonl")) == count

    def test_what_was_read_equals_what_was_recorded(self, optimizer, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl")
        for loss in (0.1, 1 / 3, 1e-300, math.inf, -math.inf, None):
            recorder.step(loss=loss, infinite=math.inf)
        assert Recorder.read(tmp_path / "run.jsonl").records == list(recorder.records)

    def test_nan_is_strict_json_and_comes_back(self, optimizer, tmp_path):
        Recorder(optimizer, tmp_path / "run.jsonl").step(loss=torch.tensor(math.nan))
        assert lines(tmp_path / "run.jsonl")[0]["loss"] == "nan"
        (record,) = Recorder.read(tmp_path / "run.jsonl").records
        assert math.isnan(record.loss)

    def test_any_optimizer_and_rates_that_are_tensors(self):
        weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
        groups = [{"params": [w]} for w in weights]
        groups[1]["name"] = groups[2]["name"] = "twin"
        recorder = Recorder(torch.optim.Adam(groups, lr=torch.tensor(0.5)))
        record = recorder.step()
        assert record.groups == ("group 0", "twin", "group 2")
        assert record.rates == (0.5, 0.5, 0.5)

    def test_a_group_that_joins_later(self, optimizer):
        recorder = Recorder(optimizer)
        recorder.step(loss=1)
        late = ("late.weight", nn.Parameter(torch.ones(1)))
        optimizer.add_param_group({"params": [late], "name": "late"})
        recorder.step(loss=1)
        assert [math.isnan(record.rate("late")) for record in recorder.records] == [
            True,
            False,
        ]
        assert recorder.groups == ("stem..blocks", "fc", "late")

    def test_memory_is_bounded_and_the_file_is_not(self, optimizer, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl", keep=2)
        for loss in range(5):
            recorder.step(loss=loss)
        assert [record.step for record in recorder.records] == [4, 5]
        assert len(Recorder.read(tmp_path / "run.jsonl").records) == 5

    def test_rows_share_the_names_of_the_groups(self, optimizer):
        recorder = Recorder(optimizer)
        assert recorder.step().groups is recorder.step().groups


class TestRefusals:
    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (torch.ones(4), "loss: expected one number, found the shape (4,)"),
            (torch.ones(0), "loss: expected one number, found the shape (0,)"),
            ([1.0], "loss: expected one number, found a list"),
            ("low", "loss: expected one number, found a str"),
            (torch.tensor(1j), "loss: expected one number, found a complex"),
        ],
    )
    def test_no_single_number(self, optimizer, loss, message, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl")
        recorder.step(loss=1)
        with pytest.raises(TrainingError) as caught:
            recorder.step(loss=loss)
        assert str(caught.value) == message
        with pytest.raises(TrainingError, match=message.split(",")[0].replace("loss", "extra")):
            recorder.step(loss=1, extra=loss)
        assert recorder.step(loss=2).step == 2
        assert len(Recorder.read(tmp_path / "run.jsonl").records) == len(recorder.records) == 2

    def test_a_group_that_vanished(self, optimizer, tmp_path):
        recorder = Recorder(optimizer, tmp_path / "run.jsonl")
        recorder.step(loss=1)
        del optimizer.param_groups[1]
        with pytest.raises(TrainingError, match="group 'fc' is no longer in the optimizer"):
            recorder.step(loss=1)
        assert Recorder.read(tmp_path / "run.jsonl").records == list(recorder.records)
        assert len(recorder.records) == 1

    def test_a_missing_folder(self, optimizer, tmp_path):
        with pytest.raises(TrainingError, match="run.jsonl: cannot be written: No such file"):
            Recorder(optimizer, tmp_path / "runs" / "run.jsonl")

    def test_a_folder(self, optimizer, tmp_path):
        with pytest.raises(TrainingError, match="cannot be written: Is a directory"):
            Recorder(optimizer, tmp_path)

    def test_a_file_that_goes_away_loses_nothing_in_memory(self, optimizer, tmp_path):
        folder = tmp_path / "runs"
        folder.mkdir()
        recorder = Recorder(optimizer, folder / "run.jsonl")
        (folder / "run.jsonl").unlink()
        folder.rmdir()
        with pytest.raises(TrainingError, match="cannot be written: No such file"):
            recorder.step(loss=1)
        assert len(recorder.records) == 1

    def test_an_existing_recording(self, optimizer, tmp_path):
        path = tmp_path / "run.jsonl"
        Recorder(optimizer, path).step(loss=1)
        before = path.read_bytes()
        with pytest.raises(TrainingError, match="has a recording already; append=True"):
            Recorder(optimizer, path)
        assert path.read_bytes() == before


class TestGoingOn:
    def test_steps_count_on(self, optimizer, tmp_path):
        path = tmp_path / "run.jsonl"
        Recorder(optimizer, path).step(loss=1)
        other = surgery.build_optimizer(TinyNet(), "base optimizer=sgd lr=0.1\n:bias lr*=2")
        recorder = Recorder(other, path, append=True, keep=1)
        recorder.step(loss=2)
        assert [(r.step, r.loss) for r in recorder.records] == [(2, 2.0)]
        assert [(r.step, r.loss) for r in Recorder.read(path).records] == [(1, 1.0), (2, 2.0)]

    @pytest.mark.parametrize("cut", [1, 2, 40])
    def test_after_a_crash_in_the_middle_of_a_line(self, optimizer, tmp_path, cut):
        path = tmp_path / "run.jsonl"
        recorder = Recorder(optimizer, path)
        recorder.step(loss=1)
        recorder.step(loss=2)
        path.write_bytes(path.read_bytes()[:-cut])
        whole = 2 if cut == 1 else 1  # without its newline only, the record is complete
        assert len(Recorder.read(path).records) == whole
        Recorder(optimizer, path, append=True).step(loss=3)
        assert [record.step for record in Recorder.read(path).records] == list(range(1, whole + 2))
        assert Recorder.read(path).records[-1].loss == 3

    def test_an_empty_file_is_as_good_as_none(self, optimizer, tmp_path):
        path = tmp_path / "run.jsonl"
        path.touch()
        assert Recorder(optimizer, path).step().step == 1


class TestRead:
    @pytest.mark.parametrize(
        "line",
        ["nonsense", "[]", "3", '{"step": 1}', '{"step":1,"loss":[],"rates":{}}', "[" * 9999],
    )
    def test_what_is_no_record_has_its_line_number(self, optimizer, tmp_path, line):
        path = tmp_path / "run.jsonl"
        Recorder(optimizer, path).step(loss=1)
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(TrainingError, match=r"run.jsonl:2: no record of a step"):
            Recorder.read(path)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(TrainingError, match="cannot be read: No such file"):
            Recorder.read(tmp_path / "run.jsonl")


PICTURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def recorder(optimizer):
    pytest.importorskip("matplotlib", reason="plots need the extra `plot`")
    recorder = Recorder(optimizer)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 9)  # to 0, which no log axis has
        recorder.step(loss=math.nan if step == 3 else 2.0 / (step + 1))
    return recorder


class TestPlots:
    @pytest.mark.parametrize("suffix", PICTURES)
    def test_are_written(self, recorder, tmp_path, suffix):
        for name, plot in [("a", recorder.plot_rates), ("b", recorder.plot_loss_over_rate)]:
            plot(tmp_path / f"{name}{suffix}")
            assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(PICTURES[suffix])
        assert len(list(tmp_path.iterdir())) == 2

    def test_from_a_file(self, optimizer, tmp_path):
        pytest.importorskip("matplotlib", reason="plots need the extra `plot`")
        Recorder(optimizer, tmp_path / "run.jsonl").step(loss=1)
        Recorder.read(tmp_path / "run.jsonl").plot_rates(tmp_path / "rates.svg")
        assert "stem..blocks" in (tmp_path / "rates.svg").read_text()

    def test_many_groups_have_a_legend_that_can_be_read(self, tmp_path):
        pytest.importorskip("matplotlib", reason="plots need the extra `plot`")
        groups = [
            {"params": [nn.Parameter(torch.ones(1))], "name": f"layer {i}", "lr": 0.8**i}
            for i in range(40)
        ]
        recorder = Recorder(torch.optim.SGD(groups))
        recorder.step()
        recorder.plot_rates(tmp_path / "rates.svg")
        drawn = (tmp_path / "rates.svg").read_text()
        assert all(name in drawn for name in ("layer 0 ", "layer 39 ", "14 of 40 curves"))
        assert "layer 1 " not in drawn

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("rates.txt", TrainingError, "rates.txt: no picture format; there are .*png"),
            ("rates", TrainingError, "rates: no picture format"),
            ("plots/rates.png", CheckpointError, "no folder .*plots to write to"),
        ],
    )
    def test_bad_paths(self, recorder, tmp_path, name, error, message):
        with pytest.raises(error, match=message):
            recorder.plot_rates(tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_nothing_to_plot(self, optimizer, recorder, tmp_path):
        empty = Recorder(optimizer)
        with pytest.raises(TrainingError, match="no step was recorded"):
            empty.plot_rates(tmp_path / "rates.png")
        with pytest.raises(TrainingError, match="no step was recorded"):
            empty.plot_loss_over_rate(tmp_path / "loss.png")
        empty.step()
        with pytest.raises(TrainingError, match="no step has a loss and a learning rate"):
            empty.plot_loss_over_rate(tmp_path / "loss.png")
        with pytest.raises(TrainingError, match="no group is called 'fx'; did you mean fc"):
            recorder.plot_loss_over_rate(tmp_path / "loss.png", group="fx")
        assert not list(tmp_path.iterdir())

    def test_without_matplotlib(self, recorder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(TrainingError, match=r"plots need matplotlib: pip install 'matplotlib"):
            recorder.plot_rates(tmp_path / "rates.png")
