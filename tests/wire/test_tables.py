"""The generated descriptors hold what the tables of the wire hold, and nothing beside.

Either side is read into facts, one a symbol: `containerd.types.Mount.options` is "4 repeated string". The two
dictionaries must be the same.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import intermodal_api
import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

TABLES = sorted((Path(__file__).parent / "data").glob("*.txt"))
#: Services of our own, which no peer knows.
OWN = "dev.intermodal."
ADDITIONS = {"containerd.types.Envelope.sequence": "100 uint64"}

Facts = dict[str, str]

HEADING = re.compile(r"## (\S+) +\(\S+\)")
SERVICE = re.compile(r"service (\w+)")
METHOD = re.compile(r"  (\w+): (stream )?(\S+) -> (stream )?(\S+)")
MESSAGE = re.compile(r"( *)message (\w+)")
ENUM = re.compile(r"( *)enum (\w+): (.+)")
FIELD = re.compile(r"( +)(\d+) (\w+): (?:(repeated|optional) )?(map<\w+, \S+>|\S+)( +\(deprecated\))?")


def read_tables(texts: Iterable[str]) -> Facts:
    """Read the tables twice: what they declare must be known before a type's package can be found."""
    lines = [line for text in texts for line in text.splitlines()]
    declared = {name for name, fact, _ in table_facts(lines, set()) if fact in ("message", "enum")}
    facts: Facts = {}
    for name, fact, line in table_facts(lines, declared):
        assert name not in facts, f"{line!r} states {name} a second time"
        facts[name] = fact
    return facts


def table_facts(lines: Iterable[str], declared: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each line's symbol, what is said of it, and the line."""
    package = service = ""
    scopes: list[str] = []  # the messages around the line, outermost first

    def resolve(name: str) -> str:
        if pair := re.fullmatch(r"map<(\w+), (.+)>", name):
            return f"map<{pair[1]}, {resolve(pair[2])}>"
        return f"{package}.{name}" if f"{package}.{name}" in declared else name

    def scope(indent: str) -> str:
        return ".".join([package, *scopes[: len(indent) // 2]])

    for line in lines:
        if match := HEADING.fullmatch(line):
            package = match[1]
        elif line.startswith("#") or not line:
            continue
        elif match := SERVICE.fullmatch(line):
            service = match[1]
            yield f"{package}.{service}", "service", line
        elif match := METHOD.fullmatch(line):
            request = (match[2] or "") + resolve(match[3])
            response = (match[4] or "") + resolve(match[5])
            yield f"{package}.{service}.{match[1]}", f"{request} -> {response}", line
        elif match := MESSAGE.fullmatch(line):
            scopes[len(match[1]) // 2 :] = [match[2]]
            yield f"{scope(match[1])}.{match[2]}", "message", line
        elif match := ENUM.fullmatch(line):
            name = f"{scope(match[1])}.{match[2]}"
            yield name, "enum", line
            for value in match[3].split(", "):
                key, _, number = value.partition("=")
                yield f"{name}.{key}", number, line
        elif match := FIELD.fullmatch(line):
            indent, number, field, label, kind, deprecated = match.groups()
            words = [number, label, resolve(kind), deprecated and "deprecated"]
            yield f"{scope(indent)}.{field}", " ".join(filter(None, words)), line
        else:
            raise AssertionError(f"{line!r} is no line of a table")


def read_descriptors() -> Facts:
    facts: Facts = {}
    for file in generated_files():
        assert file.syntax == "proto3", f"{file.name} must be proto3: repeated numbers travel packed"
        assert not file.extension, f"{file.name} must have no extension"
        for enum in file.enum_type:
            facts |= enum_facts(enum, file.package)
        for message in file.message_type:
            facts |= message_facts(message, file.package)
        for service in file.service:
            name = f"{file.package}.{service.name}"
            facts[name] = "service"
            for method in service.method:
                request = "stream " * method.client_streaming + method.input_type[1:]
                response = "stream " * method.server_streaming + method.output_type[1:]
                facts[f"{name}.{method.name}"] = f"{request} -> {response}"
    return facts


def generated_files() -> Iterator[FileDescriptorProto]:
    for module in pkgutil.walk_packages(intermodal_api.__path__, "intermodal_api."):
        if module.name.endswith("_pb2"):
            file = FileDescriptorProto()
            importlib.import_module(module.name).DESCRIPTOR.CopyToProto(file)
            yield file


def enum_facts(enum: EnumDescriptorProto, scope: str) -> Facts:
    name = f"{scope}.{enum.name}"
    return {name: "enum"} | {f"{name}.{value.name}": str(value.number) for value in enum.value}


def message_facts(message: DescriptorProto, scope: str) -> Facts:
    name = f"{scope}.{message.name}"
    facts = {name: "message"}
    entries = {f".{name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    for nested in message.nested_type:
        if not nested.options.map_entry:
            facts |= message_facts(nested, name)
    for enum in message.enum_type:
        facts |= enum_facts(enum, name)
    for field in message.field:
        in_oneof = field.HasField("oneof_index") and not field.proto3_optional
        assert not in_oneof, f"{name}.{field.name} must not be in a oneof"
        facts[f"{name}.{field.name}"] = field_fact(field, entries)
    return facts


def field_fact(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    words = [str(field.number)]
    if entry := entries.get(field.type_name):
        words.append(f"map<{', '.join(type_of(part) for part in entry.field)}>")
    else:
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            words.append("repeated")
        if field.proto3_optional:
            words.append("optional")
        words.append(type_of(field))
    if field.options.deprecated:
        words.append("deprecated")
    return " ".join(words)


def type_of(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(".")
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def differences(tables: Facts, descriptors: Facts) -> dict[str, tuple[str | None, str | None]]:
    """Map each symbol that differs to what the tables and what the descriptors say, None for nothing."""
    names = tables.keys() | descriptors.keys()
    return {
        name: (tables.get(name), descriptors.get(name))
        for name in sorted(names)
        if tables.get(name) != descriptors.get(name)
    }


@pytest.fixture(scope="module")
def descriptors() -> Facts:
    return {name: fact for name, fact in read_descriptors().items() if not name.startswith(OWN)}


def test_descriptors_are_what_the_tables_say(descriptors: Facts) -> None:
    tables = read_tables(path.read_text() for path in TABLES)
    assert differences(tables | ADDITIONS, descriptors) == {}


def test_additions_are_ours_alone() -> None:
    tables = read_tables(path.read_text() for path in TABLES)
    assert not tables.keys() & ADDITIONS.keys()


def test_each_table_is_read_whole() -> None:
    """No line is skipped: a table has at least as many facts as lines that are neither empty nor a comment."""
    assert [path.name for path in TABLES] == ["cgroups.txt", "containerd.txt", "cri.txt", "grpc.txt", "ttrpc.txt"]
    texts = [path.read_text() for path in TABLES]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    assert len(read_tables(texts)) >= len(lines) > 2000


@pytest.mark.parametrize(
    ("table", "line", "changed", "reported"),
    [
        pytest.param(
            "containerd",
            "  2 is_prefix: bool",
            "  6 is_prefix: bool",
            {"containerd.types.transfer.ImageReference.is_prefix": ("6 bool", "2 bool")},
            id="number",
        ),
        pytest.param(
            "cgroups",
            "  4 per_cpu: repeated uint64",
            "  4 per_cpu: uint64",
            {"io.containerd.cgroups.v1.CPUUsage.per_cpu": ("4 uint64", "4 repeated uint64")},
            id="label",
        ),
        pytest.param(
            "containerd",
            "  9 socket_dir: optional string",
            "  9 socket_dir: string",
            {"containerd.runtime.bootstrap.v1.BootstrapParams.socket_dir": ("9 string", "9 optional string")},
            id="presence",
        ),
        pytest.param(
            "ttrpc",
            "  4 timeout_nano: int64",
            "  4 timeout_nano: sint64",
            {"ttrpc.Request.timeout_nano": ("4 sint64", "4 int64")},
            id="type",
        ),
        pytest.param(
            "containerd",
            "  7 extensions: map<string, google.protobuf.Any>",
            "  7 extensions: map<string, string>",
            {
                "containerd.types.Sandbox.extensions": (
                    "7 map<string, string>",
                    "7 map<string, google.protobuf.Any>",
                )
            },
            id="map",
        ),
        pytest.param(
            "cri",
            "  18 user_specified_image: string",
            "  18 user_specified: string",
            {
                "runtime.v1.ImageSpec.user_specified": ("18 string", None),
                "runtime.v1.ImageSpec.user_specified_image": (None, "18 string"),
            },
            id="name",
        ),
        pytest.param(
            "cri",
            "enum CgroupDriver: SYSTEMD=0, CGROUPFS=1",
            "enum CgroupDriver: SYSTEMD=0, CGROUPFS=2",
            {"runtime.v1.CgroupDriver.CGROUPFS": ("2", "1")},
            id="enum-value",
        ),
        pytest.param(
            "containerd",
            "  Stream: stream google.protobuf.Any -> stream google.protobuf.Any",
            "  Stream: google.protobuf.Any -> stream google.protobuf.Any",
            {
                "containerd.services.streaming.v1.Streaming.Stream": (
                    "google.protobuf.Any -> stream google.protobuf.Any",
                    "stream google.protobuf.Any -> stream google.protobuf.Any",
                )
            },
            id="streaming",
        ),
        pytest.param(
            "containerd",
            "  Version: google.protobuf.Empty -> VersionResponse",
            "  Version: google.protobuf.Empty -> google.protobuf.Empty",
            {
                "containerd.services.version.v1.Version.Version": (
                    "google.protobuf.Empty -> google.protobuf.Empty",
                    "google.protobuf.Empty -> containerd.services.version.v1.VersionResponse",
                )
            },
            id="response",
        ),
        pytest.param(
            "containerd",
            "message UpdateSandboxResponse",
            "",
            {"containerd.runtime.sandbox.v1.UpdateSandboxResponse": (None, "message")},
            id="message-gone",
        ),
        pytest.param(
            "cri",
            "  enum ProfileType: RuntimeDefault=0, Unconfined=1, Localhost=2",
            "  enum ProfileType: RuntimeDefault=0, Unconfined=1",
            {"runtime.v1.SecurityProfile.ProfileType.Localhost": (None, "2")},
            id="nested-value-gone",
        ),
        pytest.param(
            "containerd",
            "  13 task_api_version: uint32   (deprecated)",
            "  13 task_api_version: uint32",
            {"containerd.runc.v1.Options.task_api_version": ("13 uint32", "13 uint32 deprecated")},
            id="deprecated",
        ),
    ],
)
def test_a_changed_line_is_reported(
    table: str, line: str, changed: str, reported: dict[str, tuple[str | None, str | None]], descriptors: Facts
) -> None:
    texts = {path.stem: path.read_text() for path in TABLES}
    assert texts[table].count(f"{line}\n") == 1
    texts[table] = texts[table].replace(f"{line}\n", f"{changed}\n")
    assert differences(read_tables(texts.values()) | ADDITIONS, descriptors) == reported
