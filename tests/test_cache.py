from __future__ import annotations

from pathlib import Path

import pytest

from anabranch.cache import cache_folder
from anabranch.errors import UsageError


def test_the_environment_names_the_folder(monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")


def test_a_folder_in_ones_home_is_meant_as_a_shell_means_it(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("ANABRANCH_CACHE", "~/nets")
    assert cache_folder() == Path("/home/somebody/nets")


def test_a_home_of_nobody_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", "~nobody-of-that-name/nets")
    with pytest.raises(UsageError, match="ANABRANCH_CACHE is '~nobody-of-that-name/nets', and no such home"):
        cache_folder()


def test_without_a_word_it_lies_where_the_system_keeps_caches(monkeypatch) -> None:
    monkeypatch.delenv("ANABRANCH_CACHE")
    assert cache_folder().is_absolute()
    assert "anabranch" in cache_folder().parts
