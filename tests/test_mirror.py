"""Every module that defines something has the test file that bears its name."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "peft_nb"


def mirror(module: Path) -> str:
    """Name the test file of a module: ``data/sources.py`` is tested by ``test_data_sources.py``."""
    parts = [part.strip("_") for part in module.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]
    return f"test_{'_'.join(parts) or 'public'}.py"


def defines(module: Path) -> bool:
    """Whether a module has a function or a class; what holds data alone needs no tests of its own."""
    body = ast.parse(module.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in body)


def test_every_module_has_its_tests() -> None:
    wanted = {mirror(module) for module in PACKAGE.rglob("*.py") if defines(module)}
    assert len(wanted) > 100
    assert sorted(wanted - {path.name for path in Path(__file__).parent.glob("test_*.py")}) == []
