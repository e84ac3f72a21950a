"""intermodald: the core, and whatever plugins are installed."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from intermodal_core import __version__, discovery
from intermodal_core.config import Config
from intermodal_core.config import load as load_config
from intermodal_core.errors import FailedPrecondition, IntermodalError, from_os_error
from intermodal_core.events import EventBus
from intermodal_core.kinds import Kind
from intermodal_core.loading import load_kinds
from intermodal_core.registry import Registry
from intermodal_core.spawner import Spawner

__all__ = ["Daemon", "main"]

log = logging.getLogger("intermodal")

DEFAULT_CONFIG = Path("/etc/intermodal/config.toml")


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code is 0, or 1 with one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        overrides = {key: value for key in ("root", "state", "address") if (value := getattr(options, key)) is not None}

        def read() -> Config:
            path = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
            return load_config(path, overrides, permissive=options.permissive)

        config = read()
        logging.basicConfig(
            level=config.core.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        # A busy loop must not keep the threads of plugins waiting for Python's usual 5 ms at every turn.
        sys.setswitchinterval(0.0005)
        asyncio.run(Daemon(config, read, exit_idle=options.exit_idle).run())
    except IntermodalError as error:
        print(f"intermodald: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"intermodald: {from_os_error(error, 'starting')}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="intermodald", description="The Intermodal container daemon.")
    parser.add_argument("--config", type=Path, help=f"the config file (default: {DEFAULT_CONFIG} where there is one)")
    parser.add_argument("--root", help="directory of what is kept (default: /var/lib/intermodal)")
    parser.add_argument("--state", help="directory of what is gone at reboot (default: /run/intermodal)")
    parser.add_argument("--address", help="main socket (default: STATE/intermodal.sock)")
    parser.add_argument("--permissive", action="store_true", help="unknown config keys are warnings, not errors")
    parser.add_argument(
        "--exit-idle", type=float, default=0, metavar="SECONDS", help="end once nothing was asked for so long"
    )
    parser.add_argument("--version", action="version", version=f"intermodald {__version__}")
    return parser


class Daemon:
    """One daemon on one root and state: locks, spawner, event bus, registry, in that order, and back."""

    def __init__(self, config: Config, read: Callable[[], Config] | None = None, exit_idle: float = 0) -> None:
        """`read()` reads the config anew."""
        self.config = config
        self._read = read
        self.exit_idle = exit_idle
        self._locks: list[int] = []

    async def run(self) -> None:
        """Serve until told to end. Raises IntermodalError when it cannot start."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        core = self.config.core
        self._lock(Path(core.root), "root")
        self._lock(Path(core.state), "state")
        spawner = Spawner()
        sys.addaudithook(_refuse_forks)
        events = EventBus(Path(core.root) / "events", core.journal_bytes)
        address = core.address or str(Path(core.state) / "intermodal.sock")
        registry = Registry(*self._discover(), self.config, events, spawner, address, self._read)
        try:
            await registry.start()
            gc.collect()
            gc.freeze()
            if self.exit_idle:
                registry.idle.watch(self.exit_idle, stop.set)
            reloading: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected

            def reload() -> None:
                task = asyncio.ensure_future(self._reload(registry))
                reloading.add(task)
                task.add_done_callback(reloading.discard)

            loop.add_signal_handler(signal.SIGHUP, reload)
            self._announce(address)
            await stop.wait()
            log.info("stopping")
            _notify("STOPPING=1")
        finally:
            registry.idle.close()
            await registry.stop()
            events.close()
            spawner.close()

    async def _reload(self, registry: Registry) -> None:
        """SIGHUP: the config as it is now, if it is right."""
        try:
            outcome = await registry.changes.reconfigure()
        except IntermodalError as error:
            log.error("the config stays as it is: %s", error)
            return
        log.info("the config was read again; in force now: %s", ", ".join(outcome.applied) or "nothing new")
        if outcome.restart:
            log.warning("with the next start: %s", ", ".join(outcome.restart))

    def _discover(self) -> tuple[list[discovery.Found], list[Kind]]:
        found = discovery.find()
        kinds = load_kinds([point for point in found if point.group == "kinds"])
        return found, kinds

    def _lock(self, directory: Path, what: str) -> None:
        """Hold DIRECTORY/lock for the life of the process; a second daemon is told who holds it.

        The file says the holder's pid and its main socket, a line each.
        """
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").partition("\n")[0] or "unknown"
            os.close(fd)
            raise FailedPrecondition(
                f"another intermodald (pid {holder}) uses the {what} {directory}: stop it, or give this one its own --root and --state"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n{self.config.core.address}\n".encode(), 0)
        self._locks.append(fd)

    def _announce(self, address: str) -> None:
        print(f"intermodald {__version__} ready on {address}", flush=True)
        _notify(f"READY=1\nMAINPID={os.getpid()}")


def _refuse_forks(event: str, arguments: tuple[object, ...]) -> None:
    """A fork takes one thread along and every lock: it may hang at once, or gRPC's next call may. For all code in here."""
    if event in ("os.fork", "os.forkpty"):
        raise FailedPrecondition(
            f"{event} in the daemon, whose threads hold locks: start processes through context.spawner, or set "
            'isolation = "process" for a plugin that must fork'
        )


def _notify(message: str) -> None:
    """Tell the service manager, where one asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.send(message.encode())
        except OSError as error:
            log.warning("sd_notify to %s: %s", address, error)


if __name__ == "__main__":
    sys.exit(main())
