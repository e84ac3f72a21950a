"""What a kit says in a stranger's repository: the sentence that was broken, the call that broke it, and what was not tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
from pathlib import Path

import pytest
from intermodal_core.contracts.networks import AttachResult
from intermodal_core.testing.networks import NetworkKit


class Leaky:
    def __init__(self, root):
        self._root = root
        root.mkdir(exist_ok=True)

    def attach(self, attachment):
        (self._root / attachment.container).touch()
        return AttachResult("new")

    def detach(self, attachment, result): ...
    def check(self, attachment, result): ...
    def gc(self, live): ...


class TestLeaky(NetworkKit):
    @pytest.fixture
    def factory(self):
        return Leaky


def test_of_something_else():
    assert True
"""


def run(directory: Path, text: str, *options: str) -> str:
    path = directory / "test_mine.py"
    path.write_text(text)
    command = [sys.executable, "-m", "pytest", "--rootdir", str(directory), "-c", os.devnull, "-p", "no:cacheprovider"]
    command += ["--basetemp", str(directory / "base"), *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, timeout=120, check=False)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_failure_names_the_sentence_and_the_call(tmp_path: Path, options: tuple[str, ...]) -> None:
    said = run(tmp_path, NETWORK, *options, "-k", "undoes or of_something_else")
    assert "[N2] Undo `attach`; idempotent, also when the namespace is gone or attach never finished." in said
    summary = said.partition("= contracts =")[2]
    assert "test_mine.py::TestLeaky: intermodal_core.contracts.networks:Network: 0 of 4 rules held" in summary
    assert "[N2]" in summary
    assert "detach(Attachment(id='kit/one'" in summary
    assert "assert inventory() == before" in summary
    assert "AssertionError" in summary
    assert "of_something_else" not in summary


def test_what_was_skipped_is_told_with_its_reason(tmp_path: Path) -> None:
    said = run(tmp_path, NETWORK, "-k", "n1")
    assert "1 of 4 rules held, 1 tests skipped (netns is not declared)" in said


def test_nothing_is_said_where_there_is_no_kit(tmp_path: Path) -> None:
    assert "contracts" not in run(tmp_path, "def test_x(): assert True\n")


def test_a_missing_error_is_told_with_what_was_answered(tmp_path: Path) -> None:
    text = NETWORK.replace("TestLeaky(NetworkKit)", "TestLeaky(NetworkKit)").replace(
        "class TestLeaky(NetworkKit):", "class TestLeaky(NetworkKit):\n    capabilities = frozenset({'netns'})\n"
    )
    summary = run(tmp_path, text, "-k", "n3_what_is_gone").partition("= contracts =")[2]
    assert "[N3] Raise FailedPrecondition when what `attach` made is no longer there." in summary
    assert "with pytest.raises(FailedPrecondition):\n            network.check(one, answer.result)" in summary
    assert ") -> None\n" in summary
    assert "DID NOT RAISE" in summary
