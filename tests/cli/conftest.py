import pytest
from click.testing import CliRunner
from surgery_cli.main import surgery


@pytest.fixture
def surgery_command(tmp_path, monkeypatch):
    """Run the command line inside ``tmp_path``; its words may be paths and numbers."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(surgery, [str(word) for word in words])
