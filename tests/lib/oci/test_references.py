import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument
from intermodal_oci.references import (
    Reference,
    familiar,
    normalise,
    parse,
    validate_digest,
    validate_identifier,
    validate_labels,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.example/a/b/c", "registry.example/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("Upper/app", "Upper/app:latest"),
        ("my_app__x--y.z", "docker.io/library/my_app__x--y.z:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"images.example/x:1@{DIGEST}", f"images.example/x:1@{DIGEST}"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("normal", "short"),
    [
        ("docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/user/app:1", "user/app:1"),
        ("registry.example/library/app:1", "registry.example/library/app:1"),
        (f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        ("docker.io/localhost/app", "docker.io/localhost/app"),
        ("docker.io/a.b/app", "docker.io/a.b/app"),
        ("docker.io/library/a/b", "library/a/b"),
    ],
)
def test_familiar(normal: str, short: str) -> None:
    assert familiar(normal) == short
    assert parse(short) == parse(normal)


def test_image_id_is_no_reference_and_its_repository_keeps_a_longer_form() -> None:
    image_id = "a" * 64
    with pytest.raises(InvalidArgument, match="image id"):
        parse(image_id)
    assert familiar(f"docker.io/library/{image_id}") == f"library/{image_id}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Busybox", "lower case"),
        ("busybox:", "tag after ':' is empty"),
        (":latest", "empty"),
        ("/app", "empty"),
        ("app/", "empty"),
        ("a//b", "empty"),
        ("registry.example/", "empty"),
        ("busybox:-x", "tag"),
        ("busybox:a b", "tag"),
        ("busybox:" + "x" * 129, "129 characters"),
        ("bus ybox", "'bus ybox'"),
        ("a..b", "'a..b'"),
        ("a___b", "'a___b'"),
        ("-a", "'-a'"),
        ("busybox\n", "busybox"),
        ("büsybox", "büsybox"),
        ("a_b.c:x/app", "no domain"),
        ("-bad.io/app", "no domain"),
        ("x/" + "y" * 254, "at most 255"),
        ("busybox@", "ALGORITHM:HEX"),
        ("busybox@sha256:abc", "3 characters"),
        ("busybox@md5:" + "0" * 32, "unsupported algorithm"),
        ("busybox@" + DIGEST.upper().replace("SHA256", "sha256"), "lower-case"),
        (f"busybox@{DIGEST}@{DIGEST}", "characters after"),
    ],
)
def test_bad_reference_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=None) as caught:
        parse(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("piece", ["a", "a-", "a.", "a_", "__", "-", "A", "a/", "a:", "[", ":", "@", "1.", "a--"])
def test_long_input_is_refused_at_once_and_not_echoed(piece: str) -> None:
    for text in (piece * 10_000, "x:" + piece * 10_000, "x.io/" + piece * 10_000, piece * 10_000 + "!"):
        begin = time.process_time()
        with pytest.raises(InvalidArgument) as caught:
            parse(text)
        with pytest.raises(InvalidArgument):
            validate_identifier(text)
        assert time.process_time() - begin < 0.5
        assert len(str(caught.value)) < 600


def test_patterns_are_linear_without_the_length_limits() -> None:
    from intermodal_oci import references

    for pattern in (references._DOMAIN, references._COMPONENT, references._TAG, references._IDENTIFIER):
        for piece in ("a", "a-", "a.", "a_", "-", "_", "a--a"):
            begin = time.process_time()
            assert not pattern.fullmatch(piece * 100_000 + "!")
            assert time.process_time() - begin < 1


alnum = st.text("abcxyz0189", min_size=1, max_size=5)


def joined(part: st.SearchStrategy[str], separators: list[str], most: int = 3) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(st.sampled_from(separators), part), max_size=most)
    return st.builds(lambda head, tail: head + "".join(a + b for a, b in tail), part, pairs)


components = joined(alnum, [".", "_", "__", "-", "----"])
labels = joined(st.text("abzABZ09", min_size=1, max_size=5), ["-", "--"])
ports = st.just("") | st.integers(0, 65535).map(":{}".format)
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.none() | st.from_regex(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=3).map("/".join)
# Without a domain, the first of several components must not look like one.
names = st.one_of(
    components,
    st.builds("{}/{}".format, alnum, paths),
    st.builds("{}{}/{}".format, joined(labels, ["."]).map("x.{}".format) | st.just("[fe80::1]"), ports, paths),
    st.builds("{}{}/{}".format, st.just("localhost"), ports, paths),
    st.builds("docker.io/{}".format, paths),
)


@given(names, tags, digests)
def test_whatever_parses_survives_a_round_trip(name: str, tag: str | None, digest: str | None) -> None:
    text = name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse(text)
    assert (reference.tag, reference.digest) == (tag, digest)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@given(st.text() | st.text("aA0.:/@-_[]\n ", max_size=60))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    assert isinstance(reference, Reference)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


@pytest.mark.parametrize("good", ["a", "A9", "a.b_c-d", "x" * 76])
def test_identifiers(good: str) -> None:
    assert validate_identifier(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 77, "a..b", "-a", "a-", "a/b", "../x", "a b", "a\n", "é", "a._b"])
def test_bad_identifiers(bad: str) -> None:
    with pytest.raises(InvalidArgument):
        validate_identifier(bad)


def test_labels_are_measured_in_bytes() -> None:
    validate_labels({"k": "v" * 4095, "empty": ""})
    with pytest.raises(InvalidArgument, match="4097 bytes"):
        validate_labels({"k": "v" * 4096})
    with pytest.raises(InvalidArgument, match="4097 bytes"):
        validate_labels({"k": "é" * 2048})
    with pytest.raises(InvalidArgument, match="empty"):
        validate_labels({"": "v"})


def test_digests() -> None:
    assert validate_digest(DIGEST) == DIGEST
    for bad in ("", "sha256", "sha256:", DIGEST + "0", DIGEST[:-1] + "G", "sha1:" + "0" * 40, "../../x:y"):
        with pytest.raises(InvalidArgument):
            validate_digest(bad)
