"""Tests neither believe nor change what the person who runs them has in the cache folder."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGERY_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
