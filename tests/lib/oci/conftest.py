import os
import shutil
from pathlib import Path

import pytest

APPLETS = (
    "sh",
    "id",
    "cat",
    "mount",
    "unshare",
    "true",
    "pwd",
    "env",
    "hostname",
    "ls",
    "stat",
    "head",
    "touch",
    "grep",
)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """The root directory of a small image: busybox, two users, three groups."""
    root = tmp_path / "bundle" / "rootfs"
    for directory in ("bin", "etc", "proc", "dev", "sys", "tmp", "home/user"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001:A User:/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nstaff:x:50:user,other\nusers:x:1001:\nwheel:x:10:root,user\n")
    return root
