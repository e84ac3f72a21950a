"""Conformance kits, one module a kind; they need the extra `intermodal-core[testing]`."""

import pkgutil

import pytest

# So that a failing assertion of a kit shows its values, as one of a test file does.
pytest.register_assert_rewrite(*(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")))
