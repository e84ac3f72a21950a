import os
from pathlib import Path

import pytest
from intermodal_core.errors import InvalidArgument
from intermodal_oci.users import MAX_FILE, User, read_beneath, resolve_user


@pytest.fixture(autouse=True)
def messy(rootfs: Path) -> None:
    """Lines such as real images have, and worse ones: they must not get in the way of the good ones."""
    passwd, group = rootfs / "etc/passwd", rootfs / "etc/group"
    odd = "# a comment\nbroken\n\nhuge:x:99999999999:1::/:/bin/sh\n7:x:1007:1007::/:/bin/sh\n"
    passwd.write_text(odd + passwd.read_text())
    group.write_text("+\nbad:x:ten:\n" + group.read_text())


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(0, 0, (0, 10))),
        ("root", User(0, 0, (0, 10))),
        ("user", User(1000, 1001, (1001, 50, 10))),
        ("1000", User(1000, 1001, (1001, 50, 10))),
        ("user:staff", User(1000, 50, (50,))),
        ("user:7", User(1000, 7, (7,))),
        ("1234", User(1234, 0, (0,))),
        ("1234:5678", User(1234, 5678, (5678,))),
        ("7", User(7, 0, (0,))),
        (":50", User(0, 50, (50,))),
    ],
)
def test_resolve(rootfs: Path, user: str, expected: User) -> None:
    assert resolve_user(user, str(rootfs)) == expected


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("nobody-here", "no user 'nobody-here'"),
        ("user:nogroup", "no group 'nogroup'"),
        ("user:", "USER or USER:GROUP"),
        ("a:b:c", "USER or USER:GROUP"),
        ("2147483648", "out of range"),
        ("9" * 5000, "out of range"),
        ("0:4294967295", "out of range"),
        ("huge", "out of range"),
        ("user:bad", "no number"),
        ("-1", "no user '-1'"),
        ("\u0661", "no user"),
    ],
)
def test_bad_users(rootfs: Path, user: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve_user(user, str(rootfs))
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_without_files_numbers_still_work(tmp_path: Path) -> None:
    for rootfs in (str(tmp_path), None):
        assert resolve_user("5:6", rootfs) == User(5, 6, (6,))
        assert resolve_user("", rootfs) == User(0, 0, (0,))
        with pytest.raises(InvalidArgument, match="no user 'user'"):
            resolve_user("user", rootfs)


@pytest.mark.parametrize("link", ["absolute", "climbing", "directory", "through-proc"])
def test_a_link_out_of_the_image_reads_nothing_of_the_host(tmp_path: Path, link: str) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "passwd").write_text("intruder:x:0:0::/:/bin/sh\n")
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    if link == "absolute":
        (root / "etc/passwd").symlink_to(host / "passwd")
    elif link == "climbing":
        (root / "etc/passwd").symlink_to("../" * len((root / "etc").parts) + str(host / "passwd"))
    elif link == "through-proc":
        (root / "etc/passwd").symlink_to(f"/proc/self/cwd/{os.path.relpath(host)}/passwd")
    else:
        (root / "etc").rmdir()
        (root / "etc").symlink_to(host)
    assert (root / "etc/passwd").read_text().startswith("intruder")  # a naive reader falls for it
    with pytest.raises(InvalidArgument, match="no user 'intruder'"):
        resolve_user("intruder", str(root))


def test_a_link_inside_the_image_is_followed(rootfs: Path) -> None:
    (rootfs / "usr/lib").mkdir(parents=True)
    (rootfs / "etc/passwd").rename(rootfs / "usr/lib/passwd")
    (rootfs / "etc/passwd").symlink_to("/usr/lib/passwd")
    assert resolve_user("user", str(rootfs)).uid == 1000


def test_a_file_of_the_wrong_kind(rootfs: Path) -> None:
    passwd = rootfs / "etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(InvalidArgument, match="not a regular file"):
        resolve_user("user", str(rootfs))
    passwd.unlink()
    passwd.symlink_to("passwd")
    with pytest.raises(InvalidArgument, match="Cannot open /etc/passwd of the image"):
        resolve_user("user", str(rootfs))
    passwd.unlink()
    passwd.mkdir()
    with pytest.raises(InvalidArgument, match="not a regular file"):
        resolve_user("user", str(rootfs))


def test_a_file_too_large(rootfs: Path) -> None:
    (rootfs / "etc/passwd").write_bytes(b"#" * MAX_FILE)
    assert len(read_beneath(str(rootfs), "etc/passwd")) == MAX_FILE
    (rootfs / "etc/passwd").write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(InvalidArgument, match="more than 1048576 bytes"):
        resolve_user("user", str(rootfs))


def test_bytes_that_are_no_text_do_no_harm(rootfs: Path) -> None:
    with (rootfs / "etc/passwd").open("ab") as file:
        file.write(b"\xff\xfe:x:1:1::/:\n")
    assert resolve_user("user", str(rootfs)).uid == 1000


def test_no_descriptor_is_left_open(rootfs: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for user in ("user", "nobody-here"):
        try:
            resolve_user(user, str(rootfs))
        except InvalidArgument:
            pass
    assert len(os.listdir("/proc/self/fd")) == before
