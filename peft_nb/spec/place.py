"""Where a run is executed: no part of the run itself, so that it is the same run wherever that is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peft_nb.errors import SpecError
from peft_nb.spec.field_info import FieldInfo

HERE = "here"
KINDS: dict[str, re.Pattern[str]] = {
    HERE: re.compile(HERE),
    "local": re.compile(r"local:(?P<workers>[1-9]\d{0,3})"),
    "ray": re.compile(r"ray(://[^\s/:]+:\d+)?"),
}
"""By the first word of a place, how it is written."""

FIELDS = (
    FieldInfo(
        "on",
        "text",
        "Where to train: here, local:N for N processes of this machine, ray for a Ray cluster (the one at RAY_ADDRESS, "
        "else one that is started here), or ray://HOST:PORT.",
        "cell",
        default=HERE,
    ),
    FieldInfo("workers", "integer", "Processes that train together on a Ray cluster.", "cell", default=1, minimum=1),
    FieldInfo("cpus", "integer", "Cores of each on a Ray cluster; by default its share of a node.", "cell", minimum=1),
    FieldInfo("gpus", "number", "GPUs of each on a Ray cluster.", "cell", default=0, minimum=0),
    FieldInfo(
        "keep", "switch", "Leave the rows and the run's folder on the Ray cluster after its end.", "cell", default=False
    ),
)
"""What can be said of a place, as flags."""


@dataclass(frozen=True)
class Place:
    """Where a run is executed.

    Attributes
    ----------
    on : str, default "here"
        ``here``, ``local:N``, ``ray`` or ``ray://HOST:PORT``.
    workers : int, default 1
        Processes that train together.
    cpus : int, optional
        Cores of each of them on a cluster; by default its share of a node.
    gpus : float, default 0
        GPUs of each of them on a cluster.
    keep : bool, default False
        Whether rows and folder stay on the cluster after the run.
    at_once : int, default 1
        Runs that share a cluster, such as the trials of a sweep.
    """

    on: str = HERE
    workers: int = 1
    cpus: int | None = None
    gpus: float = 0
    keep: bool = False
    at_once: int = 1

    @property
    def kind(self) -> str:
        """The first word of ``on``."""
        return self.on.partition(":")[0]

    @property
    def said(self) -> dict[str, Any]:
        """What :meth:`of` makes it of."""
        return dict(vars(self)) if self.kind == "ray" else {"on": self.on}

    @property
    def near(self) -> bool:
        """Whether it is this machine, whose cores runs share."""
        return self.kind != "ray"

    @classmethod
    def of(cls, **said: Any) -> Place:
        """Read what was said, as objects or as text; None stands for the default.

        Raises
        ------
        SpecError
            With one line for each field that is wrong.
        """
        said = {name: value for name, value in said.items() if value is not None}
        on, wrong = str(said.get("on", HERE)), list[str]()
        written = next((found for pattern in KINDS.values() if (found := pattern.fullmatch(on))), None)
        if not written:
            wrong.append(f"on: {on!r} is no place; write here, local:2, ray or ray://HOST:PORT")
        elif not on.startswith("ray"):
            wrong += [f"{name}: is for --on ray; leave it out" for name in said if name != "on"]
        elif said.get("gpus") and said.get("gpus") != "0" and "cpus" not in said:
            said["cpus"] = 1
        values: dict[str, Any] = {"on": on}
        readers: dict[str, tuple[Callable[[Any], Any], float, str]] = {
            "workers": (int, 1, "a number of processes, 1 or more"),
            "cpus": (int, 1, "a number of cores, 1 or more"),
            "gpus": (float, 0, "a number of GPUs, 0 or more"),
            "at_once": (int, 1, "a number of runs, 1 or more"),
        }
        for name, (read, least, wanted) in readers.items():
            if name in said:
                try:
                    values[name] = read(said[name])
                    fits = values[name] >= least
                except (TypeError, ValueError):
                    fits = False
                if not fits:
                    wrong.append(f"{name}: {said[name]!r} is not {wanted}")
        if "keep" in said:
            values["keep"] = str(said["keep"]).lower() in ("true", "yes", "on", "1")
        if wrong:
            raise SpecError(wrong)
        if written and (count := written.groupdict().get("workers")):
            values["workers"] = int(count)
        return cls(**values)

    @classmethod
    def taken(cls, fields: dict[str, Any]) -> Place:
        """Take out of unchecked fields what they say of the place."""
        return cls.of(**{field.name: fields.pop(field.name) for field in FIELDS if field.name in fields})
