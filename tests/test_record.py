import json

import pytest
from tiny_models import TinyNet

from surgery.errors import CheckpointError
from surgery.networks.describe import describe
from surgery.record import Record, read_record

SPEC = describe(TinyNet())
STATUS = {tensor.name: "loaded" for tensor in SPEC.tensors}
METADATA = Record("timm:tiny", STATUS, SPEC).to_metadata()


def test_a_record_is_read_as_it_was_written():
    assert read_record(METADATA, SPEC.tensors) == Record("timm:tiny", STATUS, SPEC)


def test_no_record():
    assert read_record({"format": "pt"}, SPEC.tensors) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"surgery.model": "{"}, "is damaged", id="no-json"),
        pytest.param({"surgery.model": "[]"}, "is damaged", id="another-value"),
        pytest.param({"surgery.model": "[" * 100_000}, "is damaged", id="deep"),
        pytest.param({"surgery.status": "[1]"}, "is damaged", id="no-mapping"),
        pytest.param(
            {"surgery.status": json.dumps({**STATUS, "fc.bias": "new"})},
            "to be one of loaded, adapted, fresh",
            id="unknown-status",
        ),
        pytest.param({"surgery.status": "{}"}, "other tensors than the file holds", id="others"),
    ],
)
def test_a_damaged_record_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        read_record({**METADATA, **change}, SPEC.tensors)


def test_a_record_of_another_file_is_refused():
    with pytest.raises(CheckpointError, match="other tensors than the file holds"):
        read_record(METADATA, SPEC.tensors[1:])
