"""Image references, and the other names that clients write: identifiers, labels, digests.

A reference is what a user types (`busybox`, `registry.example/a/b:1.2@sha256:...`). Its grammar is that of the
distribution project's `reference` package, and the short forms mean what Docker's and containerd's clients
take them to mean:

    reference       = name [":" tag] ["@" digest]
    name            = [domain "/"] component {"/" component}
    domain          = host [":" port]         host = dotted names | "[" IPv6 "]"
    component       = alnum {("." | "_" | "__" | "-"...) alnum}        lower case
    tag             = word {word | "." | "-"}                          at most 128 characters

Every pattern here is possessive or deterministic, and lengths are checked first: each function takes time
linear in its argument.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from intermodal_core.errors import InvalidArgument

__all__ = [
    "DEFAULT_DOMAIN",
    "DEFAULT_TAG",
    "MAX_IDENTIFIER",
    "MAX_LABEL",
    "MAX_NAME",
    "MAX_TAG",
    "Reference",
    "familiar",
    "normalise",
    "parse",
    "validate_digest",
    "validate_identifier",
    "validate_labels",
]

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL_PREFIX: Final = "library/"

MAX_NAME: Final = 255
"""Characters in the name of a reference, domain and path together."""
MAX_TAG: Final = 128
MAX_IDENTIFIER: Final = 76
MAX_LABEL: Final = 4096
"""Bytes in the key and the value of a label together."""

# An explicit a-z rather than \w and \d: those match letters and digits of every script.
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+(?:\.[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+)*+|\[[0-9A-Fa-f:]++\])"
    r"(?::[0-9]++)?"
)
_COMPONENT = re.compile(r"[a-z0-9]++(?:(?:__?|\.|-++)[a-z0-9]++)*+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9]++(?:[._-][A-Za-z0-9]++)*+")
_HEX = re.compile(r"[0-9a-f]*+")
_DIGEST_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference(NamedTuple):
    """A parsed reference in normal form: the domain and the path are always complete.

    `tag` and `digest` are None where the reference has none. `str(reference)` is the normal form, and
    `parse(str(reference)) == reference`.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Domain and path: the repository."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The shortest form that parses to this same reference: `busybox:latest`, `user/app@sha256:...`."""
        return self._familiar_name() + self._suffix()

    def with_default_tag(self) -> "Reference":
        """This reference, or the same one tagged `latest` where it has neither a tag nor a digest."""
        if self.tag is None and self.digest is None:
            return self._replace(tag=DEFAULT_TAG)
        return self

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"

    def _familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL_PREFIX)
        for candidate in (short, self.path):
            # A path such as `localhost/x` would be read as a domain, and 64 hex digits as an image id.
            if _split_domain(candidate) == (self.domain, self.path) and not _is_image_id(candidate):
                return candidate
        return self.name


def parse(text: str) -> Reference:
    """Parse a reference; what is left out is completed: `busybox` is `docker.io/library/busybox`.

    No tag is added; `normalise` does that. Raises InvalidArgument, saying which part is wrong and why.
    """
    if not text:
        raise InvalidArgument("The image reference is empty; name an image, for example busybox:latest")
    if _is_image_id(text):
        raise InvalidArgument(f"{text} is an image id, not a reference; write it as NAME@sha256:{text} or use a name")
    rest, at, digest = text.partition("@")
    name, tag = _split_tag(rest)
    domain, path = _split_domain(name)
    _check_name(text, domain, path)
    if tag is not None:
        _check_tag(text, tag)
    if at:
        try:
            validate_digest(digest)
        except InvalidArgument as error:
            raise InvalidArgument(f"Invalid image reference {_shown(text)}: {error}") from None
    return Reference(domain, path, tag, digest if at else None)


def normalise(text: str) -> str:
    """The full form under which an image is stored: `busybox` gives `docker.io/library/busybox:latest`.

    The default tag is added only where there is neither tag nor digest. Raises InvalidArgument.
    """
    return str(parse(text).with_default_tag())


def familiar(text: str) -> str:
    """The form shown to people: `docker.io/library/busybox:latest` gives `busybox:latest`.

    Raises InvalidArgument where `text` is no reference.
    """
    return parse(text).familiar


def validate_identifier(identifier: str) -> str:
    """Return `identifier`, or raise InvalidArgument where it cannot name a container, namespace, lease...

    Valid are at most 76 characters: runs of `A-Za-z0-9` joined by single `.`, `_` or `-`.
    """
    if not identifier:
        raise InvalidArgument("An identifier must not be empty")
    if len(identifier) > MAX_IDENTIFIER:
        raise InvalidArgument(
            f"Identifier {_shown(identifier)} has {len(identifier)} characters; the limit is {MAX_IDENTIFIER}"
        )
    if not _IDENTIFIER.fullmatch(identifier):
        raise InvalidArgument(
            f"Identifier {_shown(identifier)} must be runs of A-Za-z0-9 joined by single '.', '_' or '-'"
        )
    return identifier


def validate_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidArgument where a label's key is empty, or key and value together exceed 4,096 bytes."""
    for key, value in labels.items():
        if not key:
            raise InvalidArgument("A label's key must not be empty")
        size = len(key.encode("utf-8", "surrogatepass")) + len(value.encode("utf-8", "surrogatepass"))
        if size > MAX_LABEL:
            raise InvalidArgument(
                f"Label {_shown(key)} has {size} bytes, key and value together; the limit is {MAX_LABEL}"
            )


def validate_digest(digest: str) -> str:
    """Return `digest`, or raise InvalidArgument.

    Valid are `sha256:`, `sha384:` or `sha512:` and the algorithm's number of lower-case hex digits.
    """
    algorithm, colon, value = digest.partition(":")
    if not colon:
        raise InvalidArgument(f"Digest {_shown(digest)} must have the form ALGORITHM:HEX, as sha256:...")
    length = _DIGEST_LENGTHS.get(algorithm)
    if length is None:
        raise InvalidArgument(
            f"Digest {_shown(digest)} has an unsupported algorithm; use one of {', '.join(_DIGEST_LENGTHS)}"
        )
    if len(value) != length:
        raise InvalidArgument(
            f"Digest {_shown(digest)} has {len(value)} characters after '{algorithm}:'; it must have {length}"
        )
    if not _HEX.fullmatch(value):
        raise InvalidArgument(f"Digest {_shown(digest)} must be lower-case hex digits after '{algorithm}:'")
    return digest


def _split_tag(text: str) -> tuple[str, str | None]:
    """Cut the tag off: the last colon starts one unless a slash follows, for then it starts a port."""
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, None


def _split_domain(name: str) -> tuple[str, str]:
    """Split a name into domain and path, filling in what Docker's clients imply.

    The first component is a domain where it could not be a user's name: it has a dot, a colon or an
    upper-case letter, or is `localhost`.
    """
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, name
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL_PREFIX + path
    return domain, path


def _check_name(text: str, domain: str, path: str) -> None:
    size = len(domain) + 1 + len(path)
    if size > MAX_NAME:
        raise _invalid(text, f"the name has {size} characters, at most {MAX_NAME} are allowed")
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{_shown(domain)} is no domain, such as registry.example or localhost:5000")
    for component in path.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        if not component:
            raise _invalid(text, "a part of the name is empty")
        if component != component.lower():
            raise _invalid(text, "the name must be lower case")
        raise _invalid(text, f"{_shown(component)} must be a-z and 0-9 joined by single '.', by '_', '__' or hyphens")


def _check_tag(text: str, tag: str) -> None:
    if not tag:
        raise _invalid(text, "the tag after ':' is empty")
    if len(tag) > MAX_TAG:
        raise _invalid(text, f"the tag has {len(tag)} characters, at most {MAX_TAG} are allowed")
    if not _TAG.fullmatch(tag):
        raise _invalid(text, f"the tag {_shown(tag)} must be A-Za-z0-9_.- and not begin with '.' or '-'")


def _is_image_id(text: str) -> bool:
    return len(text) == 64 and _HEX.fullmatch(text) is not None


def _invalid(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid image reference {_shown(text)}: {reason}")


def _shown(text: str) -> str:
    """What a message may repeat of a stranger's input: quoted, escaped and short."""
    return repr(text if len(text) <= 100 else text[:97] + "...")
