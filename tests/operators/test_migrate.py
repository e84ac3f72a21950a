"""`imod config migrate`: options in their newest form, the rest of the file as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal.cli.config_migrate import difference, migrated, write
from intermodal_core.config import load
from intermodal_core.plugin import Plugin

from tests.harness.site import install

IMOD = Path(sys.executable).parent / "imod"

SAMPLE = """
import msgspec
from intermodal_core.plugin import Plugin

class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mirrors: list[str] = []
    timeout_ms: int = 0
    colour: str = ""
    cache: Cache = Cache()

def second(options):
    if "mirror" in options:
        options["mirrors"] = [options.pop("mirror")]
    if "shade" in options:
        options["colour"] = options.pop("shade")
    return options

def third(options):
    if "timeout" in options:
        options["timeout_ms"] = options.pop("timeout") * 1000
    options.pop("verbose", None)
    return options

plugin = Plugin(factory=lambda context: object(), config=Options, migrations=(second, third))
"""

MAIN = """# The file of somebody.
version = 1
imports = ["conf.d/*.toml"]

# About the sample.
[networks.sample] # its head
# said by whom
mirror = "a.example" # the first
shade = "red"  # of paint
# nothing is said of this
verbose = true

[networks.sample.cache]
path = "/c" # kept

[snapshotters.overlayfs]
sync = false # untouched
"""
DROP = """[networks.sample]
timeout = 3
"""
NEW = """# The file of somebody.
version = 1
imports = ["conf.d/*.toml"]

# About the sample.
[networks.sample] # its head
version = 3
# said by whom
mirrors = ["a.example"] # the first
colour = "red"  # of paint
# nothing is said of this

[networks.sample.cache]
path = "/c" # kept

[snapshotters.overlayfs]
sync = false # untouched
"""


def imod(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [IMOD, "config", *arguments], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env}
    )


@pytest.mark.slow
def test_the_newest_form_of_a_file_and_its_drop_ins(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    env = install(site, "networks", "sample", SAMPLE)
    main, drop = tmp_path / "config.toml", tmp_path / "conf.d" / "10.toml"
    drop.parent.mkdir()
    main.write_text(MAIN)
    drop.write_text(DROP)
    main.chmod(0o640)
    before = imod("show", str(main), env=env)
    assert "are of version 1 and are read as" in imod("check", str(main), env=env).stderr

    done = imod("migrate", str(main), env=env)
    assert done.returncode == 0, done.stderr
    assert "-mirror = " in done.stdout
    assert '+mirrors = ["a.example"] # the first' in done.stdout
    assert main.read_text() == MAIN, "shown and not written"

    done = imod("migrate", "--write", str(main), env=env)
    assert done.returncode == 0, done.stderr
    assert main.read_text() == NEW
    assert drop.read_text() == "[networks.sample]\nversion = 3\ntimeout_ms = 3000\n"
    assert (tmp_path / "config.toml.before-migrate").read_text() == MAIN
    assert main.stat().st_mode & 0o777 == 0o640
    after = imod("show", str(main), env=env)
    assert after.stdout == before.stdout
    assert "timeout_ms = 3000" in after.stdout
    check = imod("check", str(main), env=env)
    assert (check.returncode, check.stderr) == (0, "")
    assert "everything is in its newest form" in imod("migrate", str(main), env=env).stdout


def test_layouts_that_have_no_table_of_their_own(tmp_path: Path) -> None:
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        new: int = 0

    def step(options: dict[str, Any]) -> dict[str, Any]:
        if "old" in options:
            options["new"] = options.pop("old") * 2
        return options

    plugin: Plugin[Any] = Plugin(factory=lambda context: None, config=Options, migrations=(step,))
    for number, text in enumerate(
        (
            "version = 1\n[a]\nb = { old = 1 }\n",
            "version = 1\na.b.old = 1\n",
            "version = 1\n[a]\nb.old = 1\n",
            'version = 1\n[a.b]\nold = 1\n[x]\ny = 1\n[a.c]\nplugin = "b"\nold = 2\n',
        )
    ):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        config = load(path)
        found = migrated(config, {("a", "b"): plugin})
        assert list(found) == [str(path)], text
        assert "+" in difference(str(path), text, found[str(path)])
        kept = write(str(path), found[str(path)])
        assert Path(kept).read_text() == text
        again = load(path)
        assert again.section("a", "b").convert(Options, (step,)) == Options(2), path.read_text()
        assert again.section("a", "b").common.version == 2
        assert again.notices == []
        if number == 3:
            assert again.section("a", "c").convert(Options, (step,)) == Options(4)
        assert migrated(again, {("a", "b"): plugin}) == {}
