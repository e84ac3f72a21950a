"""Hook plugins with one fault each, which the kit must find: run by test_kits.py, not collected by itself."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from intermodal_core.contracts.hooks import ContainerInfo, Pull
from intermodal_core.errors import PermissionDenied
from intermodal_core.hooks import hookimpl
from intermodal_core.testing.hooks import Factory, HooksKit


class Labels:
    """Writes a container's labels into its environment, and lets only one registry be pulled from."""

    @hookimpl
    def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
        spec["process"]["env"] += [f"LABEL_{key}={value}" for key, value in container.labels.items()]
        return spec

    @hookimpl
    def before_pull(self, pull: Pull) -> Pull | None:
        if not pull.reference.startswith("registry.example/"):
            raise PermissionDenied(f"{pull.reference} is refused: pull from registry.example")
        return None

    @hookimpl
    def after_stop(self, container: ContainerInfo, status: int) -> None:
        return None


class _Kit(HooksKit):
    Mutant: type[Labels] = Labels

    @pytest.fixture
    def factory(self) -> Factory:
        return self.Mutant


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestK1(_Kit):
    class Mutant(Labels):
        """Changes its copy and returns nothing."""

        @hookimpl
        def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
            super().adjust_spec(spec, container)
            return None


class TestK1Other(_Kit):
    class Mutant(Labels):
        """Changes what is not the hook's value."""

        @hookimpl
        def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
            container.labels["seen"] = "yes"
            return spec


class TestK2(_Kit):
    class Mutant(Labels):
        """Answers a question that nobody asked."""

        @hookimpl
        def after_stop(self, container: ContainerInfo, status: int) -> Any:
            return True


class TestK2Type(_Kit):
    class Mutant(Labels):
        """Returns a part."""

        @hookimpl
        def before_pull(self, pull: Pull) -> Any:
            return pull.reference


class TestK3(_Kit):
    class Mutant(Labels):
        """Keeps what it works on in itself."""

        @hookimpl
        def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
            self.spec = spec
            time.sleep(0.001)
            return super().adjust_spec(self.spec, container)


class TestK4(_Kit):
    class Mutant(Labels):
        """Goes on in the background."""

        @hookimpl
        def after_stop(self, container: ContainerInfo, status: int) -> None:
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()


class TestK5(_Kit):
    class Mutant(Labels):
        """Denies by a defect."""

        @hookimpl
        def before_pull(self, pull: Pull) -> Pull | None:
            raise KeyError(pull.reference)


class TestK5Silent(_Kit):
    class Mutant(Labels):
        """Does not say why."""

        @hookimpl
        def before_pull(self, pull: Pull) -> Pull | None:
            raise PermissionDenied
