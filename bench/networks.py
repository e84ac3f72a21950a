"""Networks: an attachment in process beside Debian's CNI executables; what the default network costs a command; throughput."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from intermodal_core.contracts.networks import PortMapping
from intermodal_netlink.namespaces import Local

from bench.figures import OURS, Figure
from bench.measuring import Bench, take_turns, timed
from bench.peers import run
from tests.harness.cni import DEBIAN, Attached, Chain, attachment, cni_network, namespace
from tests.harness.images import NAME
from tests.harness.links import own_network

_DEBIAN = "CNI executables"
_MEGABYTES = 400
_TYPES = ("bridge", "host-local", "portmap")


def networks(bench: Bench) -> list[Figure]:
    """bridge, host-local and portmap: ADD and DEL; TCP between two containers of one bridge."""
    if missing := [name for name in _TYPES if not (DEBIAN / name).exists()]:
        raise RuntimeError(f"{DEBIAN} lacks {', '.join(missing)}: install containernetworking-plugins")
    with own_network(), _both(bench.directory / "networks") as (ours, theirs, directory):
        return [*_attachments(bench, ours, theirs, directory), _throughput(bench, ours, theirs, directory)]


def imod_run_networks(bench: Bench) -> list[Figure]:
    """`imod run --rm` on the default network beside `--net none`; the target is 12 ms more."""
    peer = bench.peers[0]
    default = peer.imod_command("run", "--rm", NAME, "true")
    none = peer.imod_command("run", "--rm", "--net", "none", NAME, "true")
    figure = Figure("imod run --rm on the default network", "ms")
    take_turns(figure, {OURS: timed(partial(run, default)), "--net none": timed(partial(run, none))}, bench.rounds)
    figure.targets["--net none"] = (figure.median("--net none") + 12) / figure.median("--net none")
    return [figure]


@contextmanager
def _both(directory: Path) -> Iterator[tuple[Attached, Chain, Path]]:
    own = directory / "root/networks/cni/net.d"
    own.mkdir(parents=True)
    (own / "ours.conflist").write_text(json.dumps(_list("ours", "10.92.0.0/16", directory)))
    theirs = Chain(_list("theirs", "10.91.0.0/16", directory), [DEBIAN])
    with cni_network(directory, "[networks.cni]\ndirectories = []") as ours:
        yield ours, theirs, directory


def _list(name: str, subnet: str, directory: Path) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(directory / "leases"), "ranges": [[{"subnet": subnet}]]}
    bridge = {"type": "bridge", "bridge": f"{name}0", "isDefaultGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": name, "plugins": [bridge, portmap]}


def _attachments(bench: Bench, ours: Attached, theirs: Chain, directory: Path) -> list[Figure]:
    add = Figure("bridge, host-local, portmap: ADD", "ms", targets={_DEBIAN: 0.35})
    delete = Figure("bridge, host-local, portmap: DEL", "ms", targets={_DEBIAN: 0.80})
    numbers = count(1)

    def in_process() -> tuple[float, float]:
        number = next(numbers)
        with namespace(directory / "netns", f"o{number}") as netns:
            began = time.perf_counter()
            ours.add(f"c{number}", netns, "ours", ports=(PortMapping(20000 + number, 80),))
            added = time.perf_counter()
            ours.detach(attachment(f"c{number}", netns, "ours"), b"")
            return 1e3 * (added - began), 1e3 * (time.perf_counter() - added)

    def executed() -> tuple[float, float]:
        number = next(numbers)
        mapping = {"hostPort": 20000 + number, "containerPort": 80, "protocol": "tcp"}
        chain = theirs.asking(portMappings=[mapping])
        with namespace(directory / "netns", f"t{number}") as netns:
            began = time.perf_counter()
            result = chain.add(container=f"c{number}", netns=netns)
            added = time.perf_counter()
            chain.each("DEL", result, container=f"c{number}", netns=netns)
            return 1e3 * (added - began), 1e3 * (time.perf_counter() - added)

    for turn in range(-2, bench.rounds):
        for name, sample in (
            ((OURS, in_process), (_DEBIAN, executed)) if turn % 2 else ((_DEBIAN, executed), (OURS, in_process))
        ):
            added, deleted = sample()
            if turn >= 0:
                add.add(name, added)
                delete.add(name, deleted)
    return [add, delete]


def _throughput(bench: Bench, ours: Attached, theirs: Chain, directory: Path) -> Figure:
    """Megabytes a second from one container to another; nobody's plugin is in the way of a packet."""
    figure = Figure("TCP, container to container", "MB/s", targets={_DEBIAN: 0.95}, higher=True)
    with ExitStack() as stack:
        paths = [stack.enter_context(namespace(directory / "netns", f"tcp{number}")) for number in range(4)]
        servers = {
            OURS: ours.add("tcp0", paths[0], "ours").addresses[0],
            _DEBIAN: theirs.add(container="tcp2", netns=paths[2])["ips"][0]["address"],
        }
        ours.add("tcp1", paths[1], "ours")
        result = theirs.add(container="tcp3", netns=paths[3])
        ends = {OURS: (paths[0], paths[1]), _DEBIAN: (paths[2], paths[3])}
        samplers = {
            name: partial(_megabytes, *ends[name], address.partition("/")[0]) for name, address in servers.items()
        }
        take_turns(figure, samplers, min(bench.rounds, 7), warm_up=1)
        for number in (0, 1):
            ours.detach(attachment(f"tcp{number}", paths[number], "ours"), b"")
        for number in (2, 3):
            theirs.each("DEL", result, container=f"tcp{number}", netns=paths[number])
    return figure


def _megabytes(server: str, client: str, address: str) -> float:
    """Send so many megabytes of zeros; nobody but head, cat and the kernel touches them."""
    inside = Local()
    with inside.socket(server, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        with inside.socket(client, socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
            began = time.perf_counter()
            with receiver, subprocess.Popen(["cat"], stdin=receiver.fileno(), stdout=subprocess.DEVNULL) as reading:
                subprocess.run(
                    ["head", "-c", f"{_MEGABYTES}M", "/dev/zero"], stdout=sender.fileno(), check=True, timeout=120
                )
                sender.close()
                reading.wait(60)
            return _MEGABYTES / (time.perf_counter() - began)
