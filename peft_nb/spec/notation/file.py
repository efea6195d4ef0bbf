"""What a YAML file, flags or both say of one run or of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft_nb.errors import CommandError, SpecError
from peft_nb.spec.field_info import FieldInfo, aliases
from peft_nb.spec.notation.flags import flags, parse_flags
from peft_nb.spec.notation.yaml import read_yaml
from peft_nb.spec.paths import beside


def parse_train(argv: list[str], fields: Iterable[FieldInfo]) -> dict[str, Any]:
    """Read the arguments of ``python -m peft_nb train``.

    Parameters
    ----------
    argv : list of str
        A YAML file, flags, or both; a flag overrides what the file says.
    fields : iterable of FieldInfo
        The fields of a spec.

    Returns
    -------
    dict
        Fields, not yet checked.

    Raises
    ------
    CommandError
        If a flag is unknown, given twice or lacks its value, or the file cannot be read or describes several runs.
    SpecError
        If the file is not a YAML mapping of fields.
    """
    return _only(parse_runs(argv, fields))


def parse_runs(argv: list[str], fields: Iterable[FieldInfo]) -> list[dict[str, Any]]:
    """Read the same of one run or of several, as :func:`parse_train` and :func:`split_runs` do."""
    fields = list(fields)
    words, values = parse_flags(argv, flags(fields))
    if len(words) > 1:
        raise CommandError(f"{words[0]!r} and {words[1]!r} cannot both be the file; write values behind flags")
    return read_runs(words[0] if words else None, values, fields)


def read_run(file: str, values: Mapping[str, Any], fields: Iterable[FieldInfo]) -> dict[str, Any]:
    """Read the one run that a YAML file describes; `values`, as flags give them, override what it says."""
    return _only(read_runs(file, values, fields))


def read_runs(file: str | None, values: Mapping[str, Any], fields: Iterable[FieldInfo]) -> list[dict[str, Any]]:
    """Read the runs that a YAML file describes, or `values` alone; these override what the file says.

    Files and folders that the working directory does not have are looked for beside the YAML file.
    """
    if not file:
        return [dict(values)]
    try:
        found = [beside(one, Path(file).parent) for one in split_runs(read_yaml(Path(file).read_text("utf-8")))]
    except OSError as error:
        raise CommandError(f"{file!r}: {error.strerror}; give the path of a YAML file") from None
    except ValueError:
        raise CommandError(f"{file!r}: not a text file in UTF-8; give the path of a YAML file") from None
    except SpecError as error:
        raise SpecError(f"{file}: {problem}" for problem in error.problems) from None
    known = aliases(fields)
    return [{name: v for name, v in one.items() if known.get(name, name) not in values} | dict(values) for one in found]


def _only(runs: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = runs
    if others:
        fix = "%peft train in a notebook trains them one after the other"
        raise CommandError(f"the file describes {1 + len(others)} runs where one is wanted; {fix}")
    return first


def split_runs(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Take apart what a file says of several runs: under ``runs`` each has its own fields, and all share the rest.

    Parameters
    ----------
    fields : mapping
        As :func:`read_yaml` gives them.

    Returns
    -------
    list of dict
        The fields of each run; of one without ``runs``.

    Raises
    ------
    SpecError
        If ``runs`` is no list of mappings.
    """
    shared = {name: value for name, value in fields.items() if name != "runs"}
    runs = fields.get("runs", [{}])
    if not isinstance(runs, list) or not runs or not all(isinstance(one, dict) for one in runs):
        raise SpecError(["runs: not a list of runs; write one '- {method: lora, r: 8}' a line"])
    return [shared | one for one in runs]
