from __future__ import annotations

import re

import pytest

from anabranch import errors
from anabranch.errors import Error, MissingExtra, UsageError, nearest, need, shown


def drawn() -> list[tuple[str, str]]:
    """(class, parent) as the module's docstring draws them, four columns a level."""
    found: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)  ", line)
        if match:
            level = len(match[1]) // 4
            above[level:] = [match[2]]
            found.append((match[2], above[level - 1] if level else "Exception"))
    return found


def test_the_docstring_draws_the_real_tree() -> None:
    real = {
        (kind.__name__, kind.__base__.__name__)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Error) and kind.__base__
    }
    assert set(drawn()) == real


def test_only_what_was_asked_wrongly_exits_with_2() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Error)]
    assert {kind for kind in kinds if kind.exit_status == 2} == {k for k in kinds if issubclass(k, UsageError)}
    assert {kind.exit_status for kind in kinds} == {1, 2}


def test_the_nearest_names_are_found_whatever_their_case() -> None:
    assert nearest("RESNET51", ["senet", "resnet50", "ResNet101"], count=2) == ["resnet50", "ResNet101"]


def test_there_are_nearest_names_however_far_they_are() -> None:
    assert len(nearest("zzzzz", ["resnet50", "senet154", "res2net50"])) == 3


def test_a_missing_module_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'anabranch\[serve\]'"):
        need("no_such_module.inner", extra="serve")


def test_a_module_that_lacks_its_own_parts_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        need("half_installed", extra="serve")


def test_letters_of_any_script_are_shown_as_they_are() -> None:
    assert shown("rosé, Äpfel, 白菜, тюльпан") == "rosé, Äpfel, 白菜, тюльпан"


# an escape sequence, a line's end, C1's escape, marks that turn text around or are not seen, half a character
@pytest.mark.parametrize("code", ["\x1b", "\n", "\r", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\udce9"])
def test_what_a_terminal_would_obey_is_spelt_out(code: str) -> None:
    met = shown(f"a{code}b")
    assert code not in met
    assert met == f"a{code.encode('unicode_escape').decode()}b"
