"""The archive that `imod images import` hands to the daemon: a descriptor of a file, of stdin, or of a pipe."""

from __future__ import annotations

import os
import threading

from intermodal.cli.errors import Failure

__all__ = ["Archive", "opened"]


def opened(name: str) -> Archive:
    """The archive called `name`: "-" is stdin, a directory an OCI layout. Raises Failure."""
    if name == "-":
        if os.isatty(0):
            raise Failure("stdin is a terminal: write imod images import - < FILE, or name the file")
        return Archive(os.dup(0))
    if os.path.isdir(name):
        if not os.path.exists(os.path.join(name, "oci-layout")):
            raise Failure(f"{name} is a directory and no OCI layout: it has no file oci-layout")
        return LayoutArchive(name)
    try:
        return Archive(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from None


class Archive:
    """A descriptor to pass on; closed once, at the latest with the `with`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Ours; the daemon has its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check(self) -> None:
        """Raise Failure when what was passed on was not the whole."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LayoutArchive(Archive):
    """The files of an OCI layout as a tar, written into a pipe meanwhile; index first, so that a reader can plan."""

    def __init__(self, directory: str) -> None:
        reader, writer = os.pipe()
        super().__init__(reader)
        self._failure = ""
        self._writer = threading.Thread(target=self._write, args=(directory, writer), daemon=True)
        self._writer.start()

    def check(self) -> None:
        """See Archive."""
        self._writer.join()
        if self._failure:
            raise Failure(self._failure)

    def _write(self, directory: str, writer: int) -> None:
        import tarfile

        try:
            with open(writer, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
                for name in ("oci-layout", "index.json", "blobs"):
                    tar.add(os.path.join(directory, name), name)
        except BrokenPipeError:
            pass  # the daemon has refused it and says why
        except OSError as error:
            self._failure = f"reading the layout {directory}: {error}"
