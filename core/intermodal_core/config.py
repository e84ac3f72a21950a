"""The daemon's config: one TOML file and its drop-ins, typed, every value with its origin, every mistake with its line.

    version = 1                       # required in the main file
    imports = ["conf.d/*.toml"]       # merged on top in this order, tables key by key; a list replaces the one before
    log_level = "info"                # the core's own keys: `Core`

    [runtimes.gvisor]                 # an instance: [KIND.NAME], the common keys (`Common`) and the plugin's own
    plugin = "runsc"

Any other table belongs to a plugin that claims it by name, and is read with `Config.table`. Unknown keys, wrong types
and names of what is not installed are InvalidArgument: file and line, key, what was expected, the nearest valid name.
`permissive` makes warnings of them, and goes on without.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from intermodal_core.config_lines import KeyPath, dotted, line_of
from intermodal_core.errors import Internal, InvalidArgument, from_os_error
from intermodal_core.migrations import Migrated, Migration, migrate

if TYPE_CHECKING:
    from intermodal_core.kinds import Kind
    from intermodal_core.plugin import Plugin

__all__ = ["RELOADABLE", "VERSION", "Common", "Config", "Core", "Section", "load"]

VERSION = 1
#: Plugins that cannot be used and that a mistake speaks of.
_UNUSABLE = 3

#: The table of plugins behind sockets of their own.
PROXIES = "proxy_plugins"

T = TypeVar("T")
Meta = msgspec.Meta
_Seconds = Annotated[float, Meta(gt=0)]
_Name = Annotated[str, Meta(min_length=1)]


class Core(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The core's own keys, at the top of the file."""

    version: Annotated[int, Meta(ge=1, le=VERSION, description="Version of the file's layout; required.")] = VERSION
    imports: Annotated[
        list[str],
        Meta(description="Files merged on top, in this order; globs, sorted; relative to the file that names them."),
    ] = msgspec.field(default_factory=list)
    root: Annotated[str, Meta(description="Directory of what is kept.", pattern="^/")] = "/var/lib/intermodal"
    state: Annotated[str, Meta(description="Directory of what is gone at reboot.", pattern="^/")] = "/run/intermodal"
    address: Annotated[
        str, Meta(description="Main socket; empty: intermodal.sock in the state directory.", pattern="^(/|$)")
    ] = ""
    socket_mode: Annotated[
        str, Meta(description="Permissions of the sockets, octal as chmod takes them.", pattern="^0?[0-7]{3}$")
    ] = "0660"
    socket_owner: Annotated[int, Meta(ge=0, description="Numeric user id that owns the sockets.")] = 0
    socket_group: Annotated[int, Meta(ge=0, description="Numeric group id that owns the sockets.")] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe messages that are logged.")
    ] = "info"
    journal_bytes: Annotated[
        int, Meta(ge=65536, description="Size in bytes up to which old events are kept for replay.")
    ] = 64 << 20
    plugin_deadline: Annotated[
        float, Meta(gt=0, description="Seconds in which a plugin must be imported, and then constructed.")
    ] = 10.0
    stop_deadline: Annotated[float, Meta(gt=0, description="Seconds that each plugin gets to stop.")] = 10.0


class Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that every [KIND.NAME] takes beside its plugin's own."""

    plugin: Annotated[_Name | None, Meta(description="Id of the plugin; unset: the section's NAME.")] = None
    version: Annotated[
        int, Meta(ge=1, description="Version of the plugin's own options below, as the plugin counts them.")
    ] = 1
    distribution: Annotated[
        _Name | None, Meta(description="Distribution to take the plugin from, where several offer it.")
    ] = None
    enabled: Annotated[bool, Meta(description="Whether the instance may be used.")] = True
    required: Annotated[bool, Meta(description="Whether the daemon refuses to start without it.")] = False
    guards: Annotated[
        tuple[str, ...],
        Meta(description="Of a required plugin of hooks: the hooks refused without it; unset: all that may deny."),
    ] = ()
    isolation: Annotated[
        Literal["thread", "process"],
        Meta(description="Where its calls run; only a process can be ended when it hangs."),
    ] = "thread"
    deadline: Annotated[_Seconds | None, Meta(description="Seconds for one call; unset: the kind's.")] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None, Meta(description="Calls at once; unset: the kind's.")
    ] = None


_COMMON = frozenset(Common.__struct_fields__)

#: The core's own keys that take effect while the daemon runs; the others need a start.
RELOADABLE = frozenset({"log_level", "plugin_deadline", "stop_deadline"})


@dataclass(slots=True)
class _Sources:
    """Who gave each value: a file or a flag by the path of the key; the files' texts, for the line when it is asked for."""

    by_path: dict[KeyPath, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def merge(self, into: dict[str, Any], new: Mapping[str, Any], source: str, path: KeyPath = ()) -> None:
        for key, value in new.items():
            here = (*path, key)
            if isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self.by_path.setdefault(here, source)
                self.merge(into[key], value, source, here)
            else:
                into[key] = value
                self.by_path[here] = source

    def where(self, path: KeyPath, depth: int = 1) -> str:
        """`file:line`, `flag --name` or `default` for the key, or the nearest table around it of at least `depth` parts."""
        for length in range(len(path), depth - 1, -1):
            source = self.by_path.get(path[:length])
            if source is not None:
                text = self.texts.get(source)
                if text is None:
                    return source
                line = line_of(text, path) or line_of(text, path[:length])
                return f"{source}:{line}"
        return "default"


class Section:
    """One instance: `[KIND.NAME]`. `options` is all that it holds, as read; `path` is where it stands in the file."""

    def __init__(self, config: Config, kind: str, name: str, options: Mapping[str, Any], table: str = "") -> None:
        self.kind = kind
        self.name = name
        self.path = (table or kind, name)
        self.options = options
        self._config = config

    def where(self, *keys: str) -> str:
        """The origin of one of its values; of the section itself without `keys`."""
        return self._config.where((*self.path, *keys))

    @property
    def config(self) -> Config:
        """The config that it is a part of."""
        return self._config

    @cached_property
    def common(self) -> Common:
        """The common keys. Raises InvalidArgument for one of a wrong type."""
        common = {key: value for key, value in self.options.items() if key in _COMMON}
        return self._config._typed(common, Common, self.path)

    def convert(self, config_type: type[T], migrations: Sequence[Migration] = ()) -> T:
        """The plugin's own options, brought up to date by its `migrations`, as `config_type`.

        Raises InvalidArgument for an unknown key, a wrong type, and a version that is newer than the plugin's.
        """
        hidden = _COMMON.intersection(getattr(config_type, "__struct_fields__", ()))
        if hidden:
            taken = ", ".join(sorted(hidden))
            raise Internal(
                f"the config type of {self.kind}.{self.name} must rename {taken}: every section has that key"
            )
        own = self.migrated(migrations).options
        return self._config._typed(own, config_type, self.path, _COMMON)

    def migrated(self, migrations: Sequence[Migration]) -> Migrated:
        """The plugin's own options in the form of its newest version. Raises InvalidArgument as `convert` does."""
        path = self.path
        own = {key: value for key, value in self.options.items() if key not in _COMMON}
        try:
            return migrate(own, self.common.version, migrations)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._config.where((*path, 'version'))}: {dotted(path)}: {error}") from None

    def notice(self, migrations: Sequence[Migration]) -> str:
        """A sentence where keys of the section are read as others, with its place; "" where none are."""
        migrated = self.migrated(migrations)
        if not migrated.replaced:
            return ""
        place, newest = self._config.where(self.path), len(migrations) + 1
        return (
            f"{place}: {', '.join(migrated.replaced)} of [{dotted(self.path)}] are of version {self.common.version} and are "
            f"read as {', '.join(migrated.new) or 'nothing'} of version {newest}; write these with version = {newest}"
        )


class Config:
    """What was read: `core`; the other top-level `tables`, as read; `warnings` of mistakes that were let pass, and
    `notices` of options in an older form.
    """

    def __init__(self, data: dict[str, Any], sources: _Sources, permissive: bool = False) -> None:
        self.warnings: list[str] = []
        self.notices: list[str] = []
        self._permissive = permissive
        self._sources = sources
        self.tables = {
            key: value for key, value in data.items() if key not in Core.__struct_fields__ and _is_table(value)
        }
        own = {key: value for key, value in data.items() if key not in self.tables}
        core = self._typed(own, Core, ())
        self.core = core if core.address else msgspec.structs.replace(core, address=f"{core.state}/intermodal.sock")
        self._instances = {
            (kind, name): Section(self, kind, name, options)
            for kind, table in self.tables.items()
            if isinstance(table, dict)
            for name, options in table.items()
            if isinstance(options, dict)
        }

    @property
    def source(self) -> str:
        """The main file; empty where there was none."""
        return next(iter(self._sources.texts), "")

    @property
    def texts(self) -> Mapping[str, str]:
        """The text of each file that was read, by its path."""
        return self._sources.texts

    def take_proxies(self, kinds: Iterable[Kind]) -> None:
        """Let each `[proxy_plugins.NAME]` be an instance of the plugin `_proxy`, of the kind that has its `type`. Idempotent.

        Raises InvalidArgument for a type that is not among them, and for a name that a section of that kind has, too.
        """
        types = {kind.attributes["proxy"]: kind.name for kind in kinds if "proxy" in kind.attributes}
        table = self.tables.get(PROXIES, {})
        for name, options in table.items() if isinstance(table, dict) else []:
            path = (PROXIES, name)
            given = options.get("type") if isinstance(options, dict) else None
            if not isinstance(given, str) or given not in types:
                listed = ", ".join(f'"{kind}"' for kind in types)
                raise InvalidArgument(
                    f"{self.where((*path, 'type'))}: {dotted((*path, 'type'))}: expected one of {listed}, found {given!r}"
                )
            kind = types[given]
            if (other := self._instances.get((kind, name))) is not None and other.path != path:
                raise InvalidArgument(f"{self.where(path)}: there is a [{dotted(other.path)}], too: rename one of them")
            own = {key: value for key, value in options.items() if key != "type"} | {"plugin": "_proxy"}
            self._instances[kind, name] = Section(self, kind, name, own, PROXIES)

    def instances(self) -> Mapping[tuple[str, str], Section]:
        """Every `[KIND.NAME]` of the file, by kind and name. The caller picks those whose KIND is a kind."""
        return self._instances

    def section(self, kind: str, name: str) -> Section:
        """The section of one instance; an empty one where the file has none."""
        return self._instances.get((kind, name)) or Section(self, kind, name, {})

    def take(self, section: Section) -> None:
        """Let a section of a later reading stand for its instance."""
        self._instances[section.kind, section.name] = section

    def table(self, name: str, annotation: type[T]) -> T:
        """The top-level table (or list of tables) `name`, converted; of an absent one, what an empty one gives.

        Raises InvalidArgument for an unknown key or a wrong type.
        """
        empty: Any = [] if getattr(annotation, "__origin__", annotation) is list else {}
        return self._typed(self.tables.get(name, empty), annotation, (name,))

    def check_names(
        self,
        known: Mapping[str, Collection[str]],
        tables: Collection[str] | None = None,
        unusable: Sequence[str] = (),
    ) -> None:
        """Check every table's name against the kinds with their installed plugin ids, and against the claimed `tables`.

        Which tables are claimed is known once plugins are loaded; without `tables` only sections of kinds are checked.
        `unusable` says of plugins whose claims are not known why that is. Raises InvalidArgument for the first that is neither a
        kind nor claimed, or names a plugin that is not installed.
        """
        from intermodal_core.config_types import nearest

        for key, table in self.tables.items():
            if key == PROXIES or key in (tables or ()) or (tables is None and key not in known):
                continue
            if key not in known:
                sentence = f'no plugin kind or table is called "{key}"; {nearest(key, {*known, *(tables or ())})}'
                if unusable:
                    sentence += f"; if it is of a plugin that cannot be used: {'; '.join(unusable[:_UNUSABLE])}"
                self._unknown((key,), sentence)
                continue
            for name, options in table.items() if isinstance(table, dict) else [("", table)]:
                path = (key, name) if name else (key,)
                if not isinstance(options, dict):
                    self._unknown(path, f"[{key}] holds instances only: write [{key}.NAME] and the key below it")
                    continue
                plugin = self._instances[key, name].common.plugin
                if (plugin or name) not in known[key]:
                    path = (*path, "plugin") if plugin else path
                    hint = nearest(plugin or name, known[key])
                    self._unknown(path, f'no plugin "{plugin or name}" of the kind {key} is installed; {hint}')

    def check(
        self,
        known: Mapping[str, Collection[str]],
        plugins: Mapping[tuple[str, str], Plugin[Any]],
        unusable: Sequence[str] = (),
    ) -> None:
        """Check all of it: names, the tables that `plugins` (by kind and id) claim, their sections, and what they check.

        Sections of plugins that are not among them, because they are off or broken, keep their own keys to themselves.
        Raises InvalidArgument for the first mistake; with `permissive` what is not known is a warning.
        """
        tables = {name: annotation for plugin in plugins.values() for name, annotation in plugin.tables.items()}
        self.check_names(known, tables, unusable)
        for name, annotation in tables.items():
            self.table(name, annotation)
        names = {kind: set(ids) for kind, ids in known.items()}
        for (kind, name), section in self._instances.items():
            if kind not in known:
                continue
            plugin = plugins.get((kind, section.common.plugin or name))
            if section.common.enabled:
                names[kind].add(name)
            else:
                names[kind].discard(name)
            if plugin is not None:
                self._let_pass(section.convert, plugin.config, plugin.migrations)
                if notice := section.notice(plugin.migrations):
                    self.notices.append(notice)
        for plugin in plugins.values():
            if plugin.check is not None:
                self._let_pass(plugin.check, self, names)

    def where(self, path: KeyPath) -> str:
        """The origin of a value: `file:line`, `flag --name` or `default`."""
        depth = next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))
        return self._sources.where(path, depth)

    def dump(self, with_origin: bool = False, plugins: Mapping[tuple[str, str], Plugin[Any]] | None = None) -> str:
        """All values in force as TOML that reads back; each with its origin as a comment if wanted.

        The `plugins` of instances add the defaults of the common keys and of their own.
        """
        from intermodal_core.config_text import dump

        return dump(self, plugins or {}, with_origin)

    # Checks.

    def _unknown(self, path: KeyPath, sentence: str) -> None:
        self._mistake(f"{self._sources.where(path)}: {sentence}")

    def _mistake(self, message: str) -> None:
        if not self._permissive:
            raise InvalidArgument(message)
        if message not in self.warnings:
            self.warnings.append(message)

    def _let_pass(self, check: Callable[..., Any], *arguments: Any) -> None:
        """Make a check whose errors are warnings where mistakes are; a defect of the plugin's is for its row to tell."""
        try:
            check(*arguments)
        except InvalidArgument as error:
            self._mistake(str(error))
        except Internal:
            pass

    def _typed(self, data: Any, annotation: type[T], path: KeyPath, beside: Collection[str] = ()) -> T:
        """`data`, found at `path`, as `annotation`; `beside` are further names that a key may have been meant for."""
        from intermodal_core.config_types import explain, nearest, unknown_keys

        unknown = list(unknown_keys(data, annotation))
        for (*above, key), names in unknown:
            owner = f"[{dotted((*path, *above))}]" if path or above else "the core"
            hint = nearest(str(key), {*names, *(beside if not above else ())})
            if path and key in Core.__struct_fields__ and "mean" not in hint:
                hint = "it belongs at the top of the file, before the first [table]"
            self._unknown((*path, *above, key), f'{owner} has no key "{key}"; {hint}')
            data = _without(data, (*above, key))
        while True:
            try:
                return msgspec.convert(data, annotation)
            except msgspec.ValidationError as error:
                inner, sentence = explain(error, data, annotation)
            full = (*path, *inner)
            message = f"{self._sources.where(full)}: {dotted(full) or 'the file'}: {sentence}"
            if not inner:
                raise InvalidArgument(message)
            self._mistake(message)
            try:
                data = _without(data, inner)
            except (LookupError, TypeError):
                raise InvalidArgument(message) from None


def _without(data: Any, path: KeyPath) -> Any:
    """A copy that lacks the key, or the element of a list, at `path`."""
    data = holder = copy.deepcopy(data)
    for part in path[:-1]:
        holder = holder[part]
    del holder[path[-1]]
    return data


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)
    )


def load(path: Path | None, overrides: Mapping[str, Any] | None = None, *, permissive: bool = False) -> Config:
    """Read the config file at `path` (None: none, all defaults) with its imports; `overrides` by dotted key on top.

    Raises InvalidArgument for anything wrong in it, and by meaning (NotFound, PermissionDenied, ...) where a file cannot
    be read.
    """
    data: dict[str, Any] = {}
    sources = _Sources()
    if path is not None:
        _read(path, data, sources, ())
        if "version" not in data and not permissive:
            raise InvalidArgument(f"{path}: the key version is missing: write version = {VERSION} as the first line")
    for key, value in (overrides or {}).items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        sources.merge(data, nested, f"flag --{key.replace('_', '-')}")
    config = Config(data, sources, permissive)
    if path is not None and "version" not in data:
        config.warnings.append(f"{path}: the key version is missing; it is read as version {VERSION}")
    return config


def _read(path: Path, data: dict[str, Any], sources: _Sources, importers: tuple[str, ...]) -> None:
    """Merge the file at `path`, then its imports; one reached before is not read twice."""
    name = str(path)
    if name in importers:
        raise InvalidArgument(f"config files import each other in a circle: {' -> '.join((*importers, name))}")
    if name in sources.texts:
        return
    try:
        text = path.read_bytes().decode()
        new = tomllib.loads(text)
    except OSError as error:
        raise from_os_error(error, "reading the config") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not TOML: byte {error.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(_not_toml(path, text, str(error))) from None
    except RecursionError:
        raise InvalidArgument(f"{path}: tables or lists are nested too deeply") from None
    sources.texts[name] = text.replace("\r\n", "\n")
    version, imports = new.get("version", VERSION), new.get("imports", [])
    if importers:
        new = {key: value for key, value in new.items() if key not in ("version", "imports")}
    sources.merge(data, new, name)
    if isinstance(version, int) and version > VERSION:
        where = f"{name}:{line_of(sources.texts[name], ('version',))}"
        raise InvalidArgument(f"{where}: version {version} is of a newer release; this one reads up to {VERSION}")
    for pattern in imports if isinstance(imports, list) else []:
        for found in _matches(path, pattern, sources.texts[name]):
            _read(found, data, sources, (*importers, name))


def _matches(importer: Path, pattern: Any, text: str) -> list[Path]:
    """The files that an entry of `imports` names, sorted; only a glob may name none."""
    import glob

    where = f"{importer}:{line_of(text, ('imports',))}"
    if not isinstance(pattern, str):
        raise InvalidArgument(f"{where}: imports: expected a list of file names or globs, found {pattern!r}")
    found = sorted(glob.glob(str(importer.parent / pattern)))
    if not found and not glob.has_magic(pattern):
        raise InvalidArgument(f"{where}: imports {importer.parent / pattern}, which does not exist")
    return [Path(name) for name in found]


def _not_toml(path: Path, text: str, message: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if found is None:
        return f"{path}: not TOML: {message}"
    line, column = found[2] or text.count("\n") + 1, found[3] or len(text) - text.rfind("\n")
    return f"{path}:{line}:{column}: not TOML: {found[1][:1].lower()}{found[1][1:]}"
