"""What the crash test of the content store has killed: one blob written, one resumed, one adopted, deletes and aborts."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from intermodal_local.store import Store

FIRST = b"first " * 1000
SECOND = b"second " * 1000
ADOPTED = b"adopted " * 1000
DOOMED = b"doomed " * 1000


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write(store: Store, ref: str, data: bytes) -> None:
    store.begin(ref, len(data), digest(data))
    store.append(ref, data[:2000])
    store.append(ref, data[2000:], 2000)
    store.commit(ref, len(data), digest(data))
    # Only what was promised is told: the parent holds the store to it.
    print(digest(data), flush=True)


def main() -> None:
    root = Path(sys.argv[1])
    store = Store(root)
    write(store, "first", FIRST)
    store.begin("second")
    store.append("second", SECOND[:3000] + b"wrong")
    store.close("second")
    store = Store(root)
    assert store.begin("second").offset == 3005
    store.truncate("second", 3000)
    store.append("second", SECOND[3000:])
    store.commit("second", 0, digest(SECOND))
    print(digest(SECOND), flush=True)
    incoming = Path(store.ingest_path_for(len(ADOPTED))) / "file"
    incoming.write_bytes(ADOPTED)
    store.adopt(str(incoming), digest(ADOPTED), len(ADOPTED))
    print(digest(ADOPTED), flush=True)
    store.begin("given up")
    store.append("given up", b"some")
    store.abort("given up")
    write(store, "doomed", DOOMED)
    store.delete(digest(DOOMED))
    print("deleted", flush=True)
