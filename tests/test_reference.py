"""REFERENCE.md says what the code says; ``python tests/test_reference.py`` writes it anew."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Callable, Iterable
from inspect import getdoc
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb import errors, events
from peft_nb.data.layouts import LAYOUTS
from peft_nb.magics.line import COMMANDS
from peft_nb.methods import REGISTRY, Method, options, tasks_of
from peft_nb.metrics import METRICS, demandable
from peft_nb.models import ALIASES
from peft_nb.runs.run import Run
from peft_nb.spec import METHODS, RunSpec, fields, notation
from peft_nb.spec.recipes import names, purpose
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Facts

FILE = Path(__file__).parents[1] / "REFERENCE.md"

HEAD = """\
# Reference

Everything that can be written, and everything that is told back. Generated from the code by
`python tests/test_reference.py`; a test holds it true. What it is all for is told in the [README](README.md).
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def said(value: Any) -> str:
    return f"`{json.dumps(value, default=lambda v: sorted(v) if isinstance(v, set) else str(v))}`"


def first(of: object) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = " ".join((getdoc(of) or "").partition("\n\n")[0].split())
    return re.sub(r":\w+:`", "`", text).replace("``", "`")


def cell() -> str:
    own = [(f"`{flag}`", field.help) for flag, field in notation.flags(notation.CELL).items()]
    flags = table(("flag", "what it does"), own)
    usage = "`%%peft [METHOD] [--flag value ...]`; the lines below set fields as YAML, one `field: value` a line."
    return f"{usage}\n\n{flags}"


def spec() -> str:
    parts = []
    for section, group in groupby([*RunSpec.describe(), *SweepSpec.describe()], key=lambda field: field.section):
        rows = [field_row(field) for field in group]
        parts.append(f"### {section}\n\n" + table(("field", "flags", "value", "default", "what it is"), rows))
    return "\n\n".join(parts)


def field_row(field: fields.FieldInfo) -> tuple[str, ...]:
    flags = list(notation.flags([field]))
    value = " · ".join(f"`{one}`" for one in field.choices) or field.type
    facts = ", ".join(filter(None, [field.unit, field.bounds]))
    default = (
        "required" if field.required else f"`{notation.write_yaml({'': field.default}).partition(':')[2].strip()}`"
    )
    flagged = " ".join(f"`{flag}`" for flag in flags)
    return f"`{field.name}`", flagged, f"{value} ({facts})" if facts else value, default, field.help


def method(entry: Method) -> str:
    can = [f"base: {', '.join(entry.quantizations)}", ", ".join(tasks_of(entry))]
    can += ["padding-free" if entry.padding_free else "padded", "merges" if entry.mergeable else "cannot be merged"]
    defaults = " · ".join(f"`{name}: {value}`" for name, value in entry.defaults.items())
    own = {**options(entry), **dict.fromkeys(entry.required, "required")}
    listed = " · ".join(f"`{name}` {value if value == 'required' else said(value)}" for name, value in own.items())
    lines = [
        f"### `{entry.name}`",
        f"{entry.help} When: {entry.when}. Source: {entry.source}.",
        f"{'; '.join(can)}. `null` in a field stands for: {defaults}.",
        f"`method_options`: {listed or 'none'}.",
    ]
    return "\n\n".join(lines)


def methods() -> str:
    return "\n\n".join(method(entry) for name, entry in REGISTRY.items() if name in METHODS)


def commands() -> str:
    parts = []
    for name, one in COMMANDS.items():
        lines = [f"### `{f'%peft {name} {one.usage}'.strip()}`", one.help]
        rows = [(f"`{own.flag}`", kind(own), own.help) for own in one.options]
        parts.append("\n\n".join([*lines, table(("flag", "value", "what it is"), rows)] if rows else lines))
    return "\n\n".join(parts)


def kind(field: fields.FieldInfo) -> str:
    value = " · ".join(f"`{one}`" for one in field.choices) or field.type
    facts = ", ".join(filter(None, [field.unit, field.bounds]))
    return f"{value} ({facts})" if facts else value


def told() -> str:
    parts = []
    for name, one in events.KINDS.items():
        rows = [(f"`{field.name}`", f"`{field.type}`") for field in dataclasses.fields(one)]
        parts.append(f"### `{name}`\n\n{' '.join((getdoc(one) or '').split())}\n\n{table(('field', 'type'), rows)}")
    return "\n\n".join(parts).replace("``", "`")


def metrics() -> str:
    rows = [(f"`{name}`", metric.help, metric.better or "") for name, metric in sorted(demandable().items())]
    told = {name: metric.help for name, metric in METRICS.items() if not metric.suite}
    others = [(f"`{name}`", help) for name, help in sorted(told.items())]
    return "\n\n".join(
        [
            'What `accept` can demand, such as `accept: {forgetting: "< 0.05"}`:',
            table(("metric", "what it is", "better is"), rows),
            "What else a run tells:",
            table(("metric", "what it is"), others),
            "What `run.facts` holds of the base and the rows, so that a run can be opened again:",
            table(("field", "type"), [(f"`{one.name}`", f"`{one.type}`") for one in dataclasses.fields(Facts)]),
        ]
    )


def columns() -> str:
    rows = []
    for entry in LAYOUTS.values():
        roles = [f"{role.name}{'' if role.required else ' (optional)'}" for role in entry.roles]
        others = "; ".join(f"{role.name}: {', '.join(role.others)}" for role in entry.roles if role.others)
        rows.append((f"`{entry.name}`", ", ".join(roles), others))
    return table(("layout", "columns", "their usual other names"), rows)


def python() -> str:
    rows = [(f"`{name}`", first(getattr(peft_nb, name))) for name in peft_nb.__all__]
    kinds = [kind for kind in reversed(Run.__mro__) if kind is not object]
    own = {name: member for kind in kinds for name, member in vars(kind).items() if not name.startswith("_")}
    members = [(f"`run.{name}`", first(member)) for name, member in own.items() if getdoc(member)]
    parts = [table(("`peft_nb.`", "what it does"), rows), table(("of a run", "what it is or does"), members)]
    searched = {name: member for name, member in vars(peft_nb.Sweep).items() if not name.startswith("_")}
    members = [(f"`sweep.{name}`", first(member)) for name, member in searched.items() if getdoc(member)]
    return "\n\n".join([*parts, table(("of a sweep", "what it is or does"), members)])


def tree() -> str:
    return "```\n" + textwrap.dedent((errors.__doc__ or "").split("\n\n")[1]) + "\n```"


def recipes() -> str:
    return table(("recipe", "what for"), [(f"`{name}`", purpose(name)) for name in names()])


def models() -> str:
    return table(
        ("model", "what it is"), [(f"`{one.name}`", f"{one.note} ({one.license})") for one in ALIASES.values()]
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "The cell": cell,
    "Fields": spec,
    "Methods": methods,
    "Commands": commands,
    "Recipes": recipes,
    "Layouts of data": columns,
    "Models with a short name": models,
    "Metrics": metrics,
    "Events": told,
    "Python": python,
    "Errors": tree,
}


def reference() -> str:
    parts = [f"## {title}\n\n{write()}" for title, write in SECTIONS.items()]
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def test_the_reference_is_that_of_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "python tests/test_reference.py writes it anew"


@pytest.mark.parametrize(
    "name",
    [
        *notation.flags([*RunSpec.describe(), *SweepSpec.describe(), *notation.CELL]),
        *(field.name for field in [*RunSpec.describe(), *SweepSpec.describe()]),
        *METHODS,
        *(f"%peft {name}" for name in COMMANDS),
        *events.KINDS,
        *METRICS,
        *names(),
        *LAYOUTS,
        *peft_nb.__all__,
    ],
)
def test_nothing_is_left_out(name: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert f"`{name}`" in text or f"`{name} " in text


def test_every_metric_of_a_run_is_explained(start: Callable[..., Run]) -> None:
    run = start(max_steps=2, judge="full", accept={"eval_loss": "< 9"}, load_best_model_at_end=True).wait()
    assert len(run.metrics) > 30
    assert run.metrics.keys() <= METRICS.keys()


def test_every_metric_of_a_classifier_is_explained(
    spec: Callable[..., RunSpec], encoder: Path, labelled: list[dict[str, str]], tmp_path: Path
) -> None:
    from peft_nb.runs.run import begin
    from peft_nb.store import Store

    wanted = spec(model=str(encoder), task="classification", max_steps=2, judge="quick")
    run = begin(wanted, data=labelled[:60], store=Store(tmp_path)).wait()
    assert "confusion" in run.metrics
    assert run.metrics.keys() <= METRICS.keys()


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
