"""The process that forks shims."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal_core.contracts.runtimes import TaskRef
from intermodal_core.errors import Unavailable
from intermodal_shim.driver import FORKED
from intermodal_shim.runtime import Options, arguments
from intermodal_shim.zygote import Zygote
from intermodal_ttrpc.channel import bind

MakeBundle = Callable[..., Path]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_zygote_that_dies_is_replaced_and_its_shims_live_on(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundles = [make_bundle(name, "sleep", "1000") for name in ("before", "after")]

    async def body(daemon: Any) -> None:
        first = await daemon.create(bundles[0])
        zygote = parent(daemon.runtime.shim_pid(first))
        ended = os.pidfd_open(zygote)
        os.kill(zygote, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        loop.add_reader(ended, gone.set_result, None)
        await gone
        loop.remove_reader(ended)
        os.close(ended)
        try:
            second = await daemon.create(bundles[1])
        except Unavailable:  # it was told before it had seen the end
            second = await daemon.create(bundles[1])
        assert parent(daemon.runtime.shim_pid(second)) != zygote
        for task in (first, second):
            await daemon.runtime.start(task)
            await daemon.end(task)

    with_daemon(body)


def test_many_at_once(spawner: Any, tmp_path: Path) -> None:
    async def main() -> None:
        zygote = Zygote(spawner, f"{FORKED}:zygote")
        args = arguments("n", "/dev/null", "", False, Options())
        with bind(str(tmp_path / "s")) as sock:
            pids = await asyncio.gather(*(zygote.fork(args, sock.fileno()) for _ in range(50)))
        assert len(set(pids)) == 50
        for pid in pids:
            assert Path(f"/proc/{pid}/comm").read_text() == "shim\n"
            os.kill(pid, signal.SIGKILL)
        for _ in range(500):
            if not any(Path(f"/proc/{pid}").exists() for pid in pids):
                break
            await asyncio.sleep(0.01)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # nobody has to wait for them
        zygote.close()

    asyncio.run(main())


def test_a_shim_leads_its_group_and_holds_nothing_of_the_zygote(make_bundle: MakeBundle, with_daemon: Any) -> None:
    async def body(daemon: Any) -> None:
        task: TaskRef = await daemon.create(make_bundle("session", "sleep", "1000"))
        shim = daemon.runtime.shim_pid(task)
        assert os.getpgid(shim) == shim
        assert os.getsid(shim) != os.getsid(0)
        await daemon.runtime.start(task)
        await daemon.rest(task)
        links = [os.readlink(entry) for entry in Path(f"/proc/{shim}/fd").iterdir()]
        assert sum(link.startswith("socket:") for link in links) == 2  # it listens, and the daemon is connected
        await daemon.end(task)

    with_daemon(body, all_events=False)
