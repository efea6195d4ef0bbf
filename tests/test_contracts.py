"""The contract against circles, on small packages that have one or none."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from tests.contracts import NoCircles


def found(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> list[list[tuple[str, str, int]]]:
    """Give the circles of a package of these files."""
    package = f"drawn_{root.name}"
    (root / package).mkdir()
    for name, text in {"__init__": "", **files}.items():
        (root / package / f"{name}.py").write_text(text.replace("PACKAGE", package))
    monkeypatch.syspath_prepend(root)
    contract = NoCircles("no circles", {"root_packages": [package]}, {})
    check = contract.check(grimp.build_graph(package, cache_dir=None), verbose=False)
    assert check.kept == (not check.metadata["circles"])
    contract.render_broken_contract(check)
    strip = len(package) + 1
    return [[(one[strip:], other[strip:], line) for one, other, line in circle] for circle in check.metadata["circles"]]


def test_a_circle_is_found_by_way_of_others_and_inside_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    circle = found(
        tmp_path,
        monkeypatch,
        a="from PACKAGE import b",
        b="import PACKAGE.c",
        c="def late():\n    from PACKAGE.a import b",
        d="from PACKAGE import a",
    )
    assert circle == [[("a", "b", 1), ("b", "c", 1), ("c", "a", 2)]]
    assert "3 files import each other:" in capsys.readouterr().out


def test_two_circles_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"a": "from PACKAGE import b", "b": "from PACKAGE import a", "c": "from PACKAGE import a, d"}
    assert found(tmp_path, monkeypatch, **two, d="from PACKAGE import c") == [
        [("a", "b", 1), ("b", "a", 1)],
        [("c", "d", 1), ("d", "c", 1)],
    ]


def test_a_file_that_imports_from_its_own_package_is_in_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((up, down),) = found(tmp_path, monkeypatch, __init__="from PACKAGE.a import x", a="from PACKAGE import y\nx = 1")
    assert (up[1], down[0]) == ("a", "a")


def test_what_a_package_offers_and_what_types_need_is_no_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PACKAGE import a"
    assert not found(tmp_path, monkeypatch, __init__="from PACKAGE.a import b", a="from PACKAGE import b", b=typed)
