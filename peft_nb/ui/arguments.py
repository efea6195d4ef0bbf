"""What calls from Python are given: a spec or its fields, live objects, and the notebook's variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import SpecError
from peft_nb.spec import RunSpec


def described(spec: RunSpec | None, fields: dict[str, Any], **given: Any) -> tuple[RunSpec, dict[str, Any]]:
    """Separate what a spec can say from live objects.

    Parameters
    ----------
    spec : RunSpec or None
        A ready spec.
    fields : dict
        Its fields, where there is none.
    **given
        For fields such as ``data`` a name, a live object or None.

    Returns
    -------
    tuple
        The spec, and what was given live.
    """
    if spec is not None and fields:
        raise SpecError([f"{name}: give it in the spec or beside it, not both" for name in fields])
    said, live = live_objects(**given)
    if spec is None:
        spec = RunSpec(**fields, **said)
    elif said:
        spec = RunSpec(**{**spec.to_kwargs(), **said})
    return spec, live


def live_objects(**given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate names from live objects: what a spec says of both, and the objects."""
    named: dict[str, Any] = {name: str(value) for name, value in given.items() if isinstance(value, str | Path)}
    live = {name: value for name, value in given.items() if value is not None and name not in named}
    said = {**named, **dict.fromkeys(live, IN_MEMORY)}
    if isinstance(several := live.get("reward"), list | tuple):
        said["reward"] = [one if isinstance(one, str) else IN_MEMORY for one in several]
    return said, live
