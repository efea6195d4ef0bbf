from __future__ import annotations

import inspect

import pytest

import peft_nb

PUBLIC = [
    "Chat",
    "Comparison",
    "Drift",
    "Explanation",
    "Index",
    "Labels",
    "Probe",
    "Router",
    "Run",
    "RunSpec",
    "Sweep",
    "Switchboard",
    "chat",
    "check",
    "combine",
    "compare",
    "discover",
    "explain",
    "feedback",
    "index",
    "label",
    "load",
    "load_ipython_extension",
    "methods",
    "models",
    "probe",
    "recipes",
    "route",
    "runs",
    "sweep",
    "synthesize",
    "train",
    "unload_ipython_extension",
    "votes",
    "watch",
]


def test_the_public_list_is_exactly_this() -> None:
    assert peft_nb.__all__ == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(peft_nb, name))


@pytest.mark.parametrize("name", ["Chat", "Comparison", "Labels", "Run", "RunSpec", "Sweep", "Switchboard"])
def test_every_public_member_is_documented(name: str) -> None:
    cls = getattr(peft_nb, name)
    kinds = [kind for kind in cls.__mro__ if kind.__module__.startswith("peft_nb")]
    every = {name: member for kind in kinds for name, member in vars(kind).items() if not name.startswith("_")}
    own = {name: member for name, member in every.items() if callable(member)}
    assert own
    assert not [name for name, member in own.items() if not inspect.getdoc(member)]
