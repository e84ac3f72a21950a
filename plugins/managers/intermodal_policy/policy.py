"""Which runtime, snapshotter, network and verification an operator's config gives, and who says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from intermodal_core.config import Config
from intermodal_core.config_lines import KeyPath
from intermodal_core.config_types import nearest
from intermodal_core.contracts.managers.policy import KINDS, LABELS, SUBJECTS, Considered, Explained, Subject
from intermodal_core.errors import IntermodalError, InvalidArgument

from intermodal_policy.rules import Defaults, Rule
from intermodal_policy.runtimes import resolve

__all__ = ["Policy"]


class _Voice(NamedTuple):
    """One that has a say: whose it is, where in the config it is written, what it says, whether it applies."""

    whose: str
    path: KeyPath
    says: str
    applies: bool


class Policy:
    """Implements `intermodal_core.contracts.managers.policy.Policy`.

    `config()` gives the config in force; `plugins(kind)` the plugin of each instance in use of a kind.
    """

    def __init__(self, config: Callable[[], Config], plugins: Callable[[str], Mapping[str, str]]) -> None:
        self._config = config
        self._plugins = plugins
        self._read: tuple[Config, Defaults, list[Rule]] | None = None
        self._origins: dict[KeyPath, str] = {}

    @property
    def _tables(self) -> tuple[Config, Defaults, list[Rule]]:
        """The config, and its tables as read; a reload puts another config in force."""
        config = self._config()
        if self._read is None or self._read[0] is not config:
            self._origins = {}
            self._read = (config, config.table("defaults", Defaults), config.table("rules", list[Rule]))
        return self._read

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
        *,
        runtime: str = "",
        given: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """The value to use and the sentence that says who chose it."""
        if subject != "runtime" and not runtime and any(rule.with_runtime != "*" for rule in self._tables[2]):
            try:
                runtime, _ = await self.choose("runtime", namespace, image, labels, given=given)
            except InvalidArgument:
                pass  # an image can be had where nothing can run it
        voices = self._voices(subject, namespace, image, labels or {}, asked, runtime, given or {})
        return self._valid(subject, next(voice for voice in voices if voice.applies))

    async def explain(
        self,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: Mapping[str, str] | None = None,
        *,
        given: Mapping[str, str] | None = None,
    ) -> list[Explained]:
        """Each subject's choice and all that was considered; the runtime comes first, since rules tell runtimes apart."""
        explained: list[Explained] = []
        runtime = ""
        for subject in SUBJECTS:
            voices = list(
                self._voices(
                    subject, namespace, image, labels or {}, (asked or {}).get(subject, ""), runtime, given or {}
                )
            )
            first = next(voice for voice in voices if voice.applies)
            considered = tuple(
                Considered(self._source(voice), voice.says, voice.applies, voice is first) for voice in voices
            )
            try:
                value, why = self._valid(subject, first)
                explained.append(Explained(subject, value, why, considered))
            except IntermodalError as error:
                explained.append(Explained(subject, first.says, self._source(first), considered, str(error)))
            if subject == "runtime":
                runtime = explained[0].value
        return explained

    def labels(self, namespace: str) -> dict[str, str]:
        """What a client that knows only labels is to follow; the built-in defaults are the client's own, too."""
        config, defaults, rules = self._tables
        found: dict[str, str] = {}
        for subject, label in LABELS.items():
            rule = next(
                (
                    r
                    for r in rules
                    if r.of_whole_namespaces and getattr(r, subject) and r.matches(namespace, "", {}, "")
                ),
                None,
            )
            if rule is not None:
                found[label] = getattr(rule, subject)
            elif subject in config.tables.get("defaults", {}):
                found[label] = getattr(defaults, subject)
        return found

    def _voices(
        self,
        subject: Subject,
        namespace: str,
        image: str,
        labels: Mapping[str, str],
        asked: str,
        runtime: str,
        given: Mapping[str, str],
    ) -> Iterator[_Voice]:
        """All that have a say, in their order; the first that applies counts."""
        _, defaults, rules = self._tables
        saying = [(number, rule, says) for number, rule in enumerate(rules) if (says := getattr(rule, subject))]

        def heard(force: bool) -> Iterator[_Voice]:
            for number, rule, says in saying:
                if (rule.force and subject == "runtime") == force:
                    whose = f"the rule {number + 1}, by force," if force else f"the rule {number + 1}"
                    applies = rule.matches(namespace, image, labels, "" if subject == "runtime" else runtime)
                    yield _Voice(whose, ("rules", number), says, applies)

        yield from heard(force=True)
        if asked:
            yield _Voice("named by the client", (), asked, True)
        if own := given.get(LABELS.get(subject, "")):
            yield _Voice(f"the label {LABELS[subject]} of the namespace {namespace}", (), own, True)
        yield from heard(force=False)
        yield _Voice(f"[defaults] {subject}", ("defaults", subject), getattr(defaults, subject), True)

    def _source(self, voice: _Voice) -> str:
        """Whose voice it is, with its line of the config, which takes a while to find."""
        if not voice.path:
            return voice.whose
        if voice.path not in self._origins:
            self._origins[voice.path] = self._tables[0].where(voice.path)
        origin = self._origins[voice.path]
        return "the built-in default" if origin == "default" else f"{voice.whose} of {origin}"

    def _valid(self, subject: Subject, voice: _Voice) -> tuple[str, str]:
        """The value as it is used. Raises InvalidArgument for a name that nothing has."""
        source = self._source(voice)
        if subject not in KINDS:
            return voice.says, source
        plugins = self._plugins(KINDS[subject])
        if subject == "runtime":
            return resolve(voice.says, source, plugins)
        if voice.says not in plugins:
            raise InvalidArgument(f"there is no {subject} {voice.says} ({source}); {nearest(voice.says, plugins)}")
        return voice.says, source
