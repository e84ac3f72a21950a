"""Many installed plugins: what is switched off is not imported, and costs next to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.discovery import install, probe

INSTALLED, USED = 200, 3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    directory = tmp_path_factory.mktemp("site")
    install(directory, INSTALLED, USED)
    return probe(directory)


def test_no_module_of_a_disabled_plugin_is_imported(found: dict[str, object]) -> None:
    assert found["imported"] == [f"sample_plugin_{number}" for number in range(USED)]
    states = found["states"]
    assert isinstance(states, dict)
    ours = {name: state for name, state in states.items() if name.startswith("sample")}
    assert ours == {f"sample{number}": "ready" if number < USED else "disabled" for number in range(INSTALLED)}


def test_each_costs_little(found: dict[str, object], tmp_path: Path) -> None:
    """CPU time, and four times of what the benchmark asks for: it shows what grows with the square of their number."""
    install(tmp_path, 0, 0)
    without = probe(tmp_path)
    assert isinstance(found["seconds"], float)
    assert isinstance(without["seconds"], float)
    assert (found["seconds"] - without["seconds"]) / INSTALLED < 0.001
