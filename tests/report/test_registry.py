import importlib
import pkgutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

import surgery
from surgery.report import REPORTS
from surgery.showing import Shown


def modules():
    for found in pkgutil.walk_packages(surgery.__path__, "surgery."):
        yield importlib.import_module(found.name)


def test_every_value_whose_str_is_a_report_has_one():
    list(modules())
    # A class with slots is made twice, and the first one may still be there.
    values = [
        value
        for value in Shown.__subclasses__()
        if getattr(sys.modules[value.__module__], value.__name__, None) is value
    ]
    assert {"TransferPlan", "ParamGroups", "Difference", "Contents"} <= {v.__name__ for v in values}
    for value in values:
        file, function = REPORTS[value.__name__].split(".")
        assert callable(getattr(sys.modules[f"surgery.report.{file}"], function)), value


def test_a_value_without_a_report():
    @dataclass
    class Stranger(Shown):
        size: int

    with pytest.raises(TypeError, match="no report of Stranger"):
        str(Stranger(3))


def test_one_report_loads_no_other():
    code = (
        "import sys, surgery\n"
        "from surgery.specs import TensorSpec\n"
        "spec = [TensorSpec('w', (2,), 'float32')]\n"
        "text = str(surgery.plan_transfer(spec, spec))\n"
        "assert 'same name' in text\n"
        "loaded = {name for name in sys.modules if name.startswith('surgery.report.')}\n"
        "print(*sorted(loaded))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [
        "surgery.report.folding",
        "surgery.report.tables",
        "surgery.report.transfers",
    ]
