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


def test_what_the_first_version_wrote_is_read_in_the_words_of_today():
    first = SPEC.tensors[0].name
    written = {**METADATA, "surgery.status": json.dumps({**STATUS, first: "adapted"})}
    assert read_record(written, SPEC.tensors).status == {**STATUS, first: "resized"}


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
            "to be one of loaded, computed, resized, fresh, open",
            id="unknown-status",
        ),
        pytest.param(
            {"surgery.status": json.dumps({**STATUS, "fc.bias": ["loaded"]})},
            "is damaged",
            id="a-list-for-a-status",
        ),
        pytest.param(
            {"surgery.status": json.dumps({**STATUS, "fc.bias": {}})}, "is damaged", id="an-object"
        ),
        pytest.param(
            {"surgery.model": METADATA["surgery.model"].replace("[5, 8]", "[Infinity, 8]")},
            "is damaged",
            id="infinity-for-a-size",
        ),
        pytest.param(
            {"surgery.model": METADATA["surgery.model"].replace("[5, 8]", '"58"')},
            "is damaged",
            id="a-text-for-a-list",
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


def shapes_of_json(value):
    """Every way of replacing one part of a JSON value by another kind of value."""
    for odd in (None, True, -1, 1.5, float("inf"), "text", [], ["x"], [1], {}, {"a": None}):
        if type(odd) is not type(value) or odd != value:
            yield odd
    parts = value.items() if isinstance(value, dict) else ()
    for key, part in enumerate(value[:1]) if isinstance(value, list) else parts:
        for changed in shapes_of_json(part):
            copy = value.copy()
            copy[key] = changed
            yield copy
    if isinstance(value, dict):
        yield dict(list(value.items())[1:])


@pytest.mark.parametrize("key", ["surgery.model", "surgery.status"])
def test_a_record_of_any_shape_is_read_or_refused(key):
    """What is read can be written down again as it was: nothing was guessed or bent."""
    for odd in shapes_of_json(json.loads(METADATA[key])):
        metadata = {**METADATA, key: json.dumps(odd)}
        try:
            record = read_record(metadata, SPEC.tensors)
        except CheckpointError:
            continue
        assert json.loads(record.to_metadata()[key]) == odd
