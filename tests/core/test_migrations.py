"""Releases of a sample plugin, whose options and records changed twice: the newest reads what the oldest was given.

The golden files are the options as each release documents them: step n makes file n + 1 of file n.
"""

from __future__ import annotations

import asyncio
import copy
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core.config import load
from intermodal_core.contracts.metadata import Table
from intermodal_core.errors import InvalidArgument
from intermodal_core.migrations import Migration, migrate
from intermodal_core.plugin import Plugin
from intermodal_sqlite.store import Store

GOLDEN = Path(__file__).with_name("golden")


def _lists_and_tables(options: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: one mirror became several, and the cache got options of its own."""
    if "mirror" in options:
        options["mirrors"] = [options.pop("mirror")]
    if isinstance(options.get("cache"), str):
        options["cache"] = {"path": options["cache"]}
    return options


def _milliseconds(options: dict[str, Any]) -> dict[str, Any]:
    """2 to 3: times are in ms, and what is said is for `log_level` to say."""
    if "timeout" in options:
        options["timeout_ms"] = options.pop("timeout") * 1000
    options.pop("verbose", None)
    return options


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mirrors: list[str] = []
    timeout_ms: int = 0
    cache: Cache = Cache()


STEPS: tuple[Migration, ...] = (_lists_and_tables, _milliseconds)
plugin = Plugin(factory=lambda context: context.config, config=Options, migrations=STEPS)


def options_of(version: int) -> dict[str, Any]:
    return tomllib.loads((GOLDEN / f"sample-{version}.toml").read_text())


@pytest.mark.parametrize("version", [1, 2])
def test_each_step_makes_the_next_golden_file(version: int) -> None:
    before = options_of(version)
    assert STEPS[version - 1](copy.deepcopy(before)) == options_of(version + 1)
    assert migrate(before, version, STEPS[:version]).options == options_of(version + 1)
    assert before == options_of(version), "migrate changed what it was given"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_ends_as_the_newest(version: int) -> None:
    assert plugin.version == 3
    assert migrate(options_of(version), version, STEPS).options == options_of(3)


@pytest.mark.parametrize("version", [1, 2])
def test_a_step_leaves_what_is_of_the_next_version_alone(version: int) -> None:
    """So that options without a version, which are read as version 1, may be new ones already."""
    assert STEPS[version - 1](options_of(version + 1)) == options_of(version + 1)


def section(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "config.toml"
    path.write_text(f"version = 1\n{text}")
    return load(path).section("backends", "sample")


OLD = '[backends.sample]\nmirror = "mirror.example"\ntimeout = 30\nverbose = true\ncache = "/c"\n'


def test_an_old_section_is_read_and_the_notice_names_each_key(tmp_path: Path) -> None:
    old = section(tmp_path, OLD)
    assert old.convert(Options, STEPS) == Options(["mirror.example"], 30_000, Cache("/c"))
    notice = old.notice(STEPS)
    assert f"{tmp_path}/config.toml:2" in notice
    for key in ("mirror", "timeout", "verbose", "mirrors", "timeout_ms", "version 1", "version = 3"):
        assert key in notice
    assert "\n" not in notice


def test_a_new_section_is_read_as_it_is(tmp_path: Path) -> None:
    new = section(tmp_path, '[backends.sample]\nversion = 3\nmirrors = ["m"]\n')
    assert new.convert(Options, STEPS) == Options(["m"])
    assert new.notice(STEPS) == ""


def test_a_key_of_the_past_in_a_new_section_is_a_mistake(tmp_path: Path) -> None:
    new = section(tmp_path, '[backends.sample]\nversion = 3\nmirror = "m"\n')
    with pytest.raises(InvalidArgument, match=r'config\.toml:4: \[backends\.sample\] has no key "mirror"'):
        new.convert(Options, STEPS)


def test_options_of_a_version_that_is_to_come_are_refused(tmp_path: Path) -> None:
    newer = section(tmp_path, "[backends.sample]\nversion = 4\n")
    with pytest.raises(InvalidArgument, match=r"config\.toml:3: backends\.sample: .*version 4.*version 3"):
        newer.convert(Options, STEPS)


# Records.


class First(msgspec.Struct):
    name: str
    size_kb: int


class Third(msgspec.Struct):
    key: str
    size: int
    labels: dict[str, str]


def _bytes(record: dict[str, object]) -> dict[str, object]:
    size = record.pop("size_kb")
    assert isinstance(size, int)
    return {**record, "size": size * 1024}


def _labels(record: dict[str, object]) -> dict[str, object]:
    return {"key": record["name"], "size": record["size"], "labels": {}}


def test_each_step_of_a_record_is_golden() -> None:
    """As it was stored, as the second release stored it, and as it is."""
    assert _bytes({"name": "a", "size_kb": 2}) == {"name": "a", "size": 2048}
    assert _labels({"name": "a", "size": 2048}) == {"key": "a", "size": 2048, "labels": {}}


def test_a_newer_release_migrates_the_records_of_the_first(tmp_path: Path) -> None:
    oldest: Table[First] = Table("sample", First, ("name",))
    newest: Table[Third] = Table("sample", Third, ("key",), migrations=(_bytes, _labels))

    async def first() -> None:
        store = Store(tmp_path / "meta.db")
        store.declare(oldest)
        await store.write(lambda tx: tx.put(oldest, First("a", 2)))
        store.close()

    async def third() -> Third | None:
        store = Store(tmp_path / "meta.db")
        store.declare(newest)
        found = await store.read(lambda tx: tx.get(newest, "a"))
        store.close()
        return found

    asyncio.run(first())
    assert asyncio.run(third()) == Third("a", 2048, {})
