"""The private directory for FIFOs and logs: one for each user, in it one for each container of each daemon."""

import hashlib
import os
import shutil
import stat
import tempfile

from intermodal_core.errors import PermissionDenied, from_os_error


class IoDirectory:
    """Paths that depend on the daemon, the namespace and the container alone, so that any client finds them."""

    def __init__(self, address: str, directory: str | None = None) -> None:
        self._address = os.path.realpath(address)
        self._base = directory or _default()

    def base(self) -> str:
        """The directory, made where it is missing. Raises PermissionDenied where another user owns it."""
        try:
            os.makedirs(self._base, 0o700, exist_ok=True)
            status = os.lstat(self._base)
        except OSError as error:
            raise from_os_error(error, f"make the directory for streams {self._base}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionDenied(f"{self._base} is not a directory of this user's own; remove it")
        return self._base

    def of(self, namespace: str, container: str, *, make: bool = False) -> str:
        """The directory of one container, made if asked for."""
        key = hashlib.sha256(f"{self._address}\0{namespace}\0{container}".encode()).hexdigest()[:16]
        path = os.path.join(self.base() if make else self._base, f"{container}-{key}")
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
        return path

    def forget(self, namespace: str, container: str) -> None:
        """Remove a container's directory with its log."""
        shutil.rmtree(self.of(namespace, container), ignore_errors=True)


def _default() -> str:
    if os.geteuid() == 0:
        return "/run/intermodal-client"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/intermodal-client" if runtime else f"{tempfile.gettempdir()}/intermodal-client-{os.geteuid()}"
