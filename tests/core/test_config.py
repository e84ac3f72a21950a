"""The config file: merging with origins, every mistake with its place and the nearest right name, the written default."""

from __future__ import annotations

import copy
import enum
import itertools
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal.cli.config_default import default_text
from intermodal_core.config import Config, Core, load
from intermodal_core.config_lines import dotted, line_of
from intermodal_core.config_text import toml
from intermodal_core.errors import IntermodalError, Internal, InvalidArgument, NotFound
from intermodal_core.plugin import Plugin

Write = Callable[..., Path]


class Fast(enum.Enum):
    YES = "yes"
    NO = "no"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1)] = 1
    names: list[str] = []


class Options(msgspec.Struct, forbid_unknown_fields=True, rename={"dns_servers": "dns-servers"}):
    binary: Annotated[str, msgspec.Meta(description="The binary. " * 20)] = "runc"
    debug: bool = False
    ratio: float = 0.5
    level: Literal["low", "high"] = "low"
    fast: Fast = Fast.NO
    dns_servers: list[str] = []
    inner: Inner = msgspec.field(default_factory=Inner)
    pools: dict[str, Inner] = {}
    note: str | None = None


class Loose(msgspec.Struct):
    inner: Inner | None = None


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    needed: str


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    image: str = "*"
    force: bool = False


def of(config: type[msgspec.Struct], **more: Any) -> Plugin[Any]:
    return Plugin(factory=lambda context: None, config=config, **more)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def refused(call: Callable[[], Any], kind: type[IntermodalError] = InvalidArgument) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in caught.value.message
    return caught.value.message


def test_no_file_is_all_defaults() -> None:
    config = load(None)
    assert config.core.root == "/var/lib/intermodal"
    assert config.core.address == "/run/intermodal/intermodal.sock"
    assert config.instances() == {}
    assert config.source == ""
    assert config.section("runtimes", "runc").convert(Options) == Options()
    assert config.section("runtimes", "runc").common.enabled


def test_sections_are_split_into_common_keys_and_the_plugins_own(write: Write) -> None:
    path = write(
        'version = 1\nstate = "/x"\n[runtimes.gvisor]\nplugin = "runsc"\nthreads = 2\nbinary = "b"\n'
        'dns-servers = ["1.1.1.1"]\n[runtimes.gvisor.pools."a.b"]\nsize = 3\n'
    )
    config = load(path)
    section = config.instances()["runtimes", "gvisor"]
    assert (section.common.plugin, section.common.threads, section.common.deadline) == ("runsc", 2, None)
    options = section.convert(Options)
    assert (options.binary, options.dns_servers, options.pools) == ("b", ["1.1.1.1"], {"a.b": Inner(3)})
    assert config.core.address == "/x/intermodal.sock"
    config.check_names({"runtimes": {"runsc"}})


def test_flags_are_on_top_and_are_named_as_origin(write: Write) -> None:
    path = write('version = 1\nroot = "/a"\nlog_level = "debug"\n')
    config = load(path, {"root": "/b", "runtimes.runc.binary": "x"})
    assert (config.core.root, config.core.log_level) == ("/b", "debug")
    assert config.source == str(path)
    assert config.where(("root",)) == "flag --root"
    assert config.where(("log_level",)) == f"{path}:3"
    assert config.where(("state",)) == "default"
    assert config.section("runtimes", "runc").convert(Options).binary == "x"
    assert "flag --log-level: log_level: expected one of" in refused(lambda: load(None, {"log_level": "loud"}))


# Drop-ins.


def test_drop_ins_merge_key_by_key_and_lists_replace(write: Write) -> None:
    main = write('version = 1\nimports = ["conf.d/*.toml"]\n[runtimes.runc]\nbinary = "a"\ndns-servers = ["1"]\n')
    first = write('[runtimes.runc]\ndebug = true\ndns-servers = ["2", "3"]\n', "conf.d/10.toml")
    second = write('[runtimes.runc]\nlevel = "high"\n\n[runtimes.other]\nplugin = "runc"\n', "conf.d/20.toml")
    config = load(main)
    options = config.section("runtimes", "runc").convert(Options)
    assert (options.binary, options.debug, options.level) == ("a", True, "high")
    assert options.dns_servers == ["2", "3"]
    assert config.where(("runtimes", "runc", "binary")) == f"{main}:4"
    assert config.where(("runtimes", "runc", "dns-servers")) == f"{first}:3"
    assert config.where(("runtimes", "runc", "level")) == f"{second}:2"
    assert config.where(("runtimes", "other")) == f"{second}:4"


def test_an_error_in_a_drop_in_names_the_drop_in(write: Write) -> None:
    main = write('version = 1\nimports = ["conf.d/*.toml"]\n[runtimes.runc]\ndebug = true\n')
    drop = write('# more\n[runtimes.runc]\nbinray = "x"\n', "conf.d/10.toml")
    message = refused(lambda: load(main).section("runtimes", "runc").convert(Options))
    assert message == f'{drop}:3: [runtimes.runc] has no key "binray"; did you mean "binary"?'


keys = st.tuples(
    st.sampled_from(["runtimes", "networks"]), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z w", "deep"])
)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(keys, st.integers(), max_size=8), st.data())
def test_disjoint_drop_ins_give_the_same_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, values: dict[tuple[str, str, str], int], data: st.DataObject
) -> None:
    files: list[str] = ["", "", ""]
    for (kind, name, key), value in values.items():
        which = data.draw(st.integers(0, 2))
        deeper = ".inner" if key == "deep" else ""
        files[which] += f'[{kind}.{name}{deeper}."{key}"]\nv = {value}\n'
    directory = tmp_path_factory.mktemp("drop")
    results = []
    for order in itertools.permutations(range(3)):
        for place, which in enumerate(order):
            (directory / f"{place}.toml").write_text(files[which])
        (directory / "main.cfg").write_text('version = 1\nimports = ["*.toml"]\n')
        config = load(directory / "main.cfg")
        results.append({key: section.options for key, section in config.instances().items()})
    assert all(result == results[0] for result in results)
    assert len(results[0]) == len({key[:2] for key in values})


def test_imports_that_match_nothing(write: Write) -> None:
    load(write('version = 1\nimports = ["none.d/*.toml"]\n'))
    path = write('version = 1\n\nimports = [\n  "none.toml",\n]\n')
    assert refused(lambda: load(path)) == f"{path}:3: imports {path.parent}/none.toml, which does not exist"
    path = write("version = 1\nimports = [3]\n")
    assert refused(lambda: load(path)) == f"{path}:2: imports: expected a list of file names or globs, found 3"
    path = write("version = 1\nimports = 3\n")
    assert refused(lambda: load(path)) == f"{path}:2: imports: expected list, got whole number (3)"


def test_what_is_nested_too_deeply_for_the_reader(write: Write) -> None:
    path = write("version = 1\nx = " + "[" * 5000 + "]" * 5000)
    assert refused(lambda: load(path)) == f"{path}: tables or lists are nested too deeply"


def test_imports_in_a_circle(write: Write) -> None:
    main = write('version = 1\nimports = ["b.toml"]\n', "a.toml")
    other = write('imports = ["a.toml"]\n', "b.toml")
    assert f"{main} -> {other} -> {main}" in refused(lambda: load(main))


def test_a_file_reached_twice_is_read_once(write: Write) -> None:
    main = write('version = 1\nimports = ["b.toml", "c.toml", "b.toml"]\n')
    write('[runtimes.r]\nbinary = "b"\n', "b.toml")
    write('version = 1\nimports = ["b.toml"]\n[runtimes.r]\nbinary = "c"\n', "c.toml")
    config = load(main)
    assert config.section("runtimes", "r").convert(Options).binary == "c"
    assert config.core.imports == ["b.toml", "c.toml", "b.toml"]
    assert config.where(("version",)) == f"{main}:1"


# Files that cannot be used.


def test_version_is_required_and_known(write: Write) -> None:
    path = write("[runtimes.runc]\n")
    assert refused(lambda: load(path)) == f"{path}: the key version is missing: write version = 1 as the first line"
    path = write("# hello\nversion = 2\n")
    assert refused(lambda: load(path)) == f"{path}:2: version 2 is of a newer release; this one reads up to 1"
    path = write('version = "1"\n')
    assert refused(lambda: load(path)).startswith(f"{path}:1: version: expected whole number, got text")


def test_unreadable_files(write: Write, tmp_path: Path) -> None:
    assert f"({tmp_path}/none)" in refused(lambda: load(tmp_path / "none"), NotFound)
    assert "Is a directory" in refused(lambda: load(tmp_path), IntermodalError)
    binary = tmp_path / "binary"
    binary.write_bytes(b"version = 1\n\xff")
    assert refused(lambda: load(binary)) == f"{binary}: not TOML: byte 12 is not UTF-8"


@pytest.mark.parametrize(
    ("text", "place"),
    [("version = 1\nroot = /x\n", "2:8"), ("version = 1\n[a\n", "2:3"), ('version = 1\na = "', "2:6")],
)
def test_not_toml_says_line_and_column(write: Write, text: str, place: str) -> None:
    path = write(text)
    assert refused(lambda: load(path)).startswith(f"{path}:{place}: not TOML: ")


# Mistakes inside.


@pytest.mark.parametrize(
    ("body", "line", "sentence"),
    [
        ('binray = "x"', 4, '[runtimes.runc] has no key "binray"; did you mean "binary"?'),
        ("dns_servers = []", 4, '[runtimes.runc] has no key "dns_servers"; did you mean "dns-servers"?'),
        ("enabeld = true", 4, '[runtimes.runc] has no key "enabeld"; did you mean "enabled"?'),
        ('journal_bytes = "x"', 4, "it belongs at the top of the file, before the first [table]"),
        ("debug = 1", 4, "runtimes.runc.debug: expected true or false, got whole number (1)"),
        ("\n\nratio = 'x'", 6, "runtimes.runc.ratio: expected number, got text ('x')"),
        ('level = "hihg"', 4, 'runtimes.runc.level: expected one of "low", "high", found \'hihg\''),
        ('fast = "maybe"', 4, 'runtimes.runc.fast: expected one of "yes", "no", found \'maybe\''),
        ("threads = 0", 4, "runtimes.runc.threads: expected whole number >= 1 (0)"),
        ("note = 1", 4, "runtimes.runc.note: expected text, got whole number (1)"),
        ("dns-servers = [\n'a',\n3]", 4, "runtimes.runc.dns-servers[1]: expected text, got whole number (3)"),
        ("inner = 3", 4, "runtimes.runc.inner: expected table, got whole number (3)"),
        ("[runtimes.runc.inner]\nsiez = 3", 5, '[runtimes.runc.inner] has no key "siez"; did you mean "size"?'),
        (
            '[runtimes.runc.pools.a]\n[runtimes.runc.pools."b.c"]\nsize = 0',
            6,
            'runtimes.runc.pools."b.c".size: expected whole number >= 1 (0)',
        ),
    ],
)
def test_a_mistake_in_a_section(write: Write, body: str, line: int, sentence: str) -> None:
    path = write(f"version = 1\n\n[runtimes.runc]\n{body}\n")

    def read() -> None:
        section = load(path).section("runtimes", "runc")
        assert section.common.enabled
        section.convert(Options)

    message = refused(read)
    assert message.startswith(f"{path}:{line}: ")
    assert sentence in message


def test_mistakes_at_the_top(write: Write) -> None:
    path = write('version = 1\nrot = "/x"\n')
    assert refused(lambda: load(path)) == f'{path}:2: the core has no key "rot"; did you mean "root"?'
    path = write('version = 1\nroot = "x"\n')
    assert refused(lambda: load(path)).startswith(f"{path}:2: root: expected text matching regex")


def test_a_required_option_points_at_its_section(write: Write) -> None:
    path = write("version = 1\n[services.x]\n")
    message = refused(lambda: load(path).section("services", "x").convert(Strict))
    assert message == f'{path}:2: services.x: the key "needed" is required'
    message = refused(lambda: load(None).section("services", "x").convert(Strict))
    assert message == 'default: services.x: the key "needed" is required'


def test_unknown_keys_are_found_in_types_that_would_let_them_pass(write: Write) -> None:
    path = write("version = 1\n[a.b]\ncolour = 1\n[a.b.inner]\nsize = 2\n")
    message = refused(lambda: load(path).section("a", "b").convert(Loose))
    assert message.startswith(f'{path}:3: [a.b] has no key "colour"; there are: deadline, ')
    path = write("version = 1\n[a.b.inner]\nsizes = 2\n")
    message = refused(lambda: load(path).section("a", "b").convert(Loose))
    assert message == f'{path}:3: [a.b.inner] has no key "sizes"; did you mean "size"?'


def test_a_config_type_may_not_hide_a_common_key(write: Write) -> None:
    class Hiding(msgspec.Struct):
        threads: int = 1

    assert "rename threads" in refused(lambda: load(None).section("a", "b").convert(Hiding), Internal)


def test_names_that_are_not_installed(write: Write) -> None:
    known = {"runtimes": {"runc", "runsc"}, "networks": {"cni"}}
    for text, expected in [
        (
            "[runtimes.rncu]\n",
            'config.toml:2: no plugin "rncu" of the kind runtimes is installed; did you mean "runc"?',
        ),
        ('[runtimes.g]\n\nplugin = "rnsc"\n', 'config.toml:4: no plugin "rnsc" of the kind runtimes is installed'),
        ("[networks.zzz]\n", "there are: cni"),
        ("[runtime.runc]\n", 'config.toml:2: no plugin kind or table is called "runtime"; did you mean "runtimes"?'),
        ("[defualts]\nx = 1\n", 'did you mean "defaults"?'),
        ('[runtimes]\ndefault = "runc"\n', "config.toml:3: [runtimes] holds instances only"),
        ("[[networks]]\n", "[networks] holds instances only"),
    ]:
        config = load(write("version = 1\n" + text))
        if "called" in expected or "defaults" in expected:
            config.check_names(known)  # which other tables are claimed is not known yet
        assert expected in refused(partial(config.check_names, known, ["defaults", "rules"]))


def test_permissive_turns_unknown_names_into_warnings(write: Write) -> None:
    path = write('version = 1\nrot = 1\n[runtimes.runc]\nbinray = "x"\ndebug = true\n[runtime.runc]\n')
    config = load(path, permissive=True)
    for _ in range(2):
        assert config.section("runtimes", "runc").convert(Options) == Options(debug=True)
    config.check_names({"runtimes": {"runc"}}, ())
    assert [warning.removeprefix(str(path))[:3] for warning in config.warnings] == [":2:", ":4:", ":6:"]
    assert config.section("runtimes", "runc").options["binray"] == "x"
    path = write('[runtimes.runc]\ndebug = 3\nthreads = "x"\nbinary = "b"\ninner.size = 0\ninner.names = ["n"]\n')
    config = load(path, permissive=True)
    section = config.section("runtimes", "runc")
    assert section.convert(Options) == Options(binary="b", inner=Inner(names=["n"]))
    assert section.common.threads is None
    assert [warning.removeprefix(str(path))[:3] for warning in config.warnings] == [": t", ":3:", ":2:", ":5:"]
    path = write("version = 1\n[services.x]\n")
    refused(lambda: load(path, permissive=True).section("services", "x").convert(Strict))


def test_tables_that_a_plugin_claims(write: Write) -> None:
    path = write(
        "version = 1\n[defaults]\nforce = true\n[[rules]]\nimage = 'a'\n[[rules]]\nimage = 'b'\n[[rules]]\nforce = 3\n"
    )
    config = load(path)
    config.check_names({}, {"defaults", "rules"})
    assert config.table("defaults", Rule) == Rule(force=True)
    assert config.table("none", Rule) == Rule()
    assert config.table("none", list[Rule]) == []
    assert refused(lambda: config.table("rules", list[Rule])).startswith(
        f"{path}:9: rules[2].force: expected true or false"
    )
    assert config.where(("rules", 1)) == f"{path}:6"
    path = write("version = 1\n[[rules]]\nimag = 'a'\n")
    message = refused(lambda: load(path).table("rules", list[Rule]))
    assert message == f'{path}:3: [rules[0]] has no key "imag"; did you mean "image"?'


# Lines.


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("text",), 3),
        (("list",), 7),
        (("list", 1), 7),
        (("t",), 13),
        (("t", "x.y"), 14),
        (("u", "v", "w"), 16),
        (("u", "v"), 16),
        (("items", 0, "n"), 18),
        (("items", 1), 19),
        (("items", 1, "n"), 20),
        (("none",), 0),
        (("items", 2), 0),
    ],
)
def test_line_of(path: tuple[str | int, ...], line: int) -> None:
    text = (
        '# a = 0\na = 1\ntext = """\na = 2\n[t]\n"""\nlist = [\n 1,\n\n # ]\n 2,\n]\n[t]\n"x.y" = 1\n[u]\n'
        "v.w = 3\n[[items]]\nn = 1\n[[items]]\nn = 2"
    )
    assert line_of(text, path) == line


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_line_of_every_key(shape: list[tuple[int, bool]]) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    for index, (gap, long) in enumerate(shape):
        lines += ["# x"] * gap
        expected[f"k{index}"] = len(lines) + 1
        lines += (
            [f"k{index} = [", " 1, # [", "", "]"]
            if long
            else [f"k{index} = '''", "k99 = 1", "'''"]
            if gap
            else [f"k{index} = 1"]
        )
    text = "\n".join(lines)
    assert {key: line_of(text, (key,)) for key in expected} == expected


# Text.

names = st.text(min_size=1, max_size=6)
values = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(names, values, max_size=4))
def test_toml_reads_back(data: dict[str, Any]) -> None:
    assert tomllib.loads("".join(f"{dotted((key,))} = {toml(value)}\n" for key, value in data.items())) == data


COMMON = ("plugin", "distribution", "enabled", "required", "isolation", "deadline", "threads")
identifiers: st.SearchStrategy[str] = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True).filter(
    lambda name: name not in COMMON
)


@st.composite
def structs(draw: st.DrawFn) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any, Any]] = []
    for name in draw(st.lists(identifiers, max_size=4, unique=True)):
        value: Any = draw(
            st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=9))
        )
        sort: Any = type(value)
        if draw(st.booleans()):
            sort, value = list[sort], [value, value]
        described = Annotated[sort, msgspec.Meta(description=draw(st.text(max_size=300)))]
        fields.append((f"f_{name}", described, msgspec.field(default_factory=partial(copy.copy, value), name=name)))
    return msgspec.defstruct("Made", fields, forbid_unknown_fields=True)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.tuples(identifiers, names), structs(), max_size=3))
def test_the_written_default_reads_back_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, types: dict[tuple[str, str], type[msgspec.Struct]]
) -> None:
    types = {key: kind for key, kind in types.items() if key[0] not in Core.__struct_fields__}
    path = tmp_path_factory.mktemp("default") / "config.toml"
    path.write_text(default_text(Core(), {key: of(kind) for key, kind in types.items()}))
    config = load(path)
    assert config.core == load(None).core
    assert set(config.instances()) == set(types)
    for key, kind in types.items():
        assert config.section(*key).convert(kind) == kind()
        assert config.section(*key).common == load(None).section(*key).common


def test_the_written_default_documents_every_option(write: Write) -> None:
    text = default_text(
        Core(root="/r"),
        {
            ("runtimes", "runc"): of(Options),
            ("services", "x"): of(Strict, tables={"defaults": Rule, "rules": list[Rule]}),
            ("services", "y"): of(Options, migrations=(dict, dict)),
        },
    )
    assert "[services.y]\nversion = 3\n" in text
    for field in msgspec.structs.fields(Core):
        assert f"\n{field.name} = " in text
    assert 'root = "/r"' in text
    assert "# Directory of what is kept." in text
    assert "#   # Whether the instance may be used.\n#   enabled = true\n" in text
    assert "\n# needed =    (required)\n" in text
    assert "\n# note =    (unset)\n" in text
    assert "[defaults]\nimage" in text
    assert '# [[rules]]\n# image = "*"\n' in text
    assert tomllib.loads(text[text.index("# [[rules]]") :].replace("# ", "").split("\n\n[")[0]) == {
        "rules": [{"image": "*", "force": False}]
    }
    assert max(map(len, text.splitlines())) <= 120
    config = load(write(text))
    assert config.section("runtimes", "runc").convert(Options) == Options()
    assert config.table("defaults", Rule) == Rule()


def test_every_core_option_is_documented() -> None:
    properties = msgspec.json.schema(Core)["$defs"]["Core"]["properties"]
    assert all(len(option.get("description", "")) > 10 for option in properties.values())


def test_the_dump_shows_values_with_their_origins_and_reads_back(write: Write) -> None:
    main = write(
        'version = 1\nimports = ["d.toml"]\n[defaults]\nforce = true\n[[rules]]\nimage = "a"\n'
        "[runtimes.runc]\ndebug = true\n[runtimes.runc.inner]\nsize = 2\n"
    )
    drop = write('[runtimes.runc.inner]\nnames = ["x"]\n', "d.toml")
    config = load(main, {"root": "/r"})
    text = config.dump(with_origin=True, plugins={("runtimes", "runc"): of(Options), ("content", "local"): of(Inner)})
    for line in (
        'root = "/r"  # flag --root',
        'state = "/run/intermodal"  # default',
        f"force = true  # {main}:4",
        f"[[rules]]  # {main}:5",
        f"debug = true  # {main}:8",
        f"inner.size = 2  # {main}:10",
        f'inner.names = ["x"]  # {drop}:2',
        'binary = "runc"  # default',
        "[content.local]",
    ):
        assert line in text.splitlines()
    (drop.parent / "d.toml").write_text("")
    again: Config = load(write(text, "again.toml"))
    assert again.core == config.core
    assert again.section("runtimes", "runc").convert(Options) == config.section("runtimes", "runc").convert(Options)
    assert again.tables["rules"] == config.tables["rules"]
    assert "#" not in config.dump()
    assert load(write(config.dump(), "plain.toml")).tables == config.tables


def test_a_line_of_a_string_is_no_header() -> None:
    text = 'a = """\n[b]\nc = 1\n"""\nd = [\n[1],\n]\n[b]\nc = 2\n[b.e]\nf = 3\n'
    assert [line_of(text, path) for path in (("a",), ("b",), ("b", "c"), ("b", "e", "f"), ("c",))] == [1, 8, 9, 11, 0]
