"""Imports and constructs one plugin, each on a thread with a deadline, so that the worst of them harms only itself."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from intermodal_core.discovery import Found
from intermodal_core.errors import IntermodalError, PluginSkipped
from intermodal_core.kinds import Kind
from intermodal_core.plugin import Context, Plugin

__all__ = ["LoadError", "Marker", "construct", "file_name", "import_plugin", "load_attribute", "load_kinds"]

T = TypeVar("T")

log = logging.getLogger("intermodal.registry")


class LoadError(Exception):
    """A plugin could not be made ready: a reason code, a sentence, a remedy."""

    def __init__(self, code: str, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.remedy = remedy


class Marker:
    """Remembers on disk which plugin is being made ready, for the daemon after one that a plugin ended.

    An end is put down to a plugin only when it is the second in a row: the first may as well have been a SIGKILL.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ends = {unquote(path.name): _number(path.read_text()) for path in directory.iterdir()}

    def ended(self, id: str) -> bool:
        """Whether the two daemons before this one ended while `id` was being made ready."""
        return self._ends.get(id, 0) >= 2

    def forget(self) -> None:
        """Give those that ended a daemon another chance."""
        for id in self._ends:
            self.path(id).unlink(missing_ok=True)
        self._ends.clear()

    def path(self, id: str) -> Path:
        """The file that stands for `id`."""
        return self._directory / file_name(id)

    @contextmanager
    def around(self, id: str) -> Iterator[None]:
        """The time in which an end of the daemon is put down to `id`."""
        path = self.path(id)
        path.write_text(f"{self._ends.get(id, 0) + 1}")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def file_name(name: str) -> str:
    """The name of an instance as one component of a path: a variant may be named by a whole path."""
    return quote(name, safe="")


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


async def on_thread(fn: Callable[..., T], *arguments: Any, deadline: float, doing: str) -> T:
    """`fn` on a daemon thread of its own. Raises what it raises, SystemExit and its like as LoadError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            done.set_exception(error)
        else:
            done.set_exception(LoadError("raised", f"{doing} raised {type(error).__name__}: {error}"))

    def work() -> None:
        result, failure = None, None
        try:
            result = fn(*arguments)
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            pass  # the loop has ended

    threading.Thread(target=work, name=doing, daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            return await done
    except TimeoutError:
        raise LoadError("hung", f"{doing} did not return within {deadline:g} s") from None


def load_attribute(value: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = value.partition(":")
    target = importlib.import_module(module)
    for part in attribute.split("."):
        target = getattr(target, part)
    return target


def load_kinds(points: Iterable[Found]) -> list[Kind]:
    """The kinds that entry points name; one that cannot be loaded is logged, and its plugins are of no kind then."""
    kinds = []
    for point in points:
        try:
            kind = load_attribute(point.value)
            if not isinstance(kind, Kind):
                raise TypeError(f"it is a {type(kind).__name__}, not an intermodal_core.kinds.Kind")
            kinds.append(kind)
        except (Exception, SystemExit) as error:
            log.error(
                "the kind %s of %s cannot be had: %s: %s", point.name, point.distribution, type(error).__name__, error
            )
    return kinds


async def import_plugin(found: Found, kind: Kind, deadline: float) -> Plugin[Any]:
    """The Plugin that an entry point names. Raises LoadError."""
    doing = f"importing {found.value}"
    try:
        plugin = await on_thread(load_attribute, found.value, deadline=deadline, doing=doing)
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        remedy = f"install {error.name} beside {found.distribution}" if error.name else ""
        raise LoadError("missing_dependency", f"{doing} failed: {error}", remedy) from error
    except Exception as error:
        raise LoadError("import_error", f"{doing} raised {type(error).__name__}: {error}{_where(error)}") from error
    if not isinstance(plugin, Plugin):
        raise LoadError(
            "not_a_plugin", f"{found.value} is a {type(plugin).__name__}, not an intermodal_core.plugin.Plugin"
        )
    if not kind.oldest <= plugin.contract <= kind.contract:
        accepted = f"{kind.oldest}" if kind.oldest == kind.contract else f"{kind.oldest} to {kind.contract}"
        raise LoadError(
            "contract_version",
            f"{found.distribution} {found.version} is written for version {plugin.contract} of the contract {kind.name}, "
            f"and this daemon has version {accepted}",
            f"install a release of {found.distribution} that fits",
        )
    return plugin


async def construct(plugin: Plugin[Any], context: Context[Any], kind: Kind, deadline: float) -> Any:
    """The instance that the plugin's factory makes, checked against the kind's interface."""
    doing = f"the factory of {context.kind}.{context.name}"
    try:
        instance = await on_thread(plugin.factory, context, deadline=deadline, doing=doing)
    except (LoadError, PluginSkipped, IntermodalError):
        raise
    except Exception as error:
        raise LoadError("raised", f"{doing} raised {type(error).__name__}: {error}{_where(error)}") from error
    if kind.interface:
        contract = load_attribute(kind.interface)
        missing = [name for name in dir(contract) if not name.startswith("_") and not hasattr(instance, name)]
        if missing:
            raise LoadError("contract", f"{type(instance).__name__} lacks {', '.join(missing)} of {kind.interface}")
    return instance


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
