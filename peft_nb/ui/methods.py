"""The methods shown: the list, the table for a model, and all there is to know about one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from peft_nb.methods import Method, methods, options, tasks_of
from peft_nb.methods.config_source import ConfigClass
from peft_nb.ui.progress_bar import progress_bar

if TYPE_CHECKING:
    from peft_nb.ui.listing import Listing

WIDTH, INDENT = 100, " " * 6  # of what is said of an option, below it


def listed(model: str | None, namespace: Mapping[str, Any]) -> Listing:
    """List the methods, with what each would train on a model where one is named.

    Parameters
    ----------
    model : str or None
        As in a spec.
    namespace : mapping
        The notebook's variables.

    Returns
    -------
    Listing
        What :func:`peft_nb.methods.methods` or :func:`peft_nb.planning.table.table` gives.
    """
    with progress_bar("importing pandas") as progress:
        from peft_nb.planning.table import table
        from peft_nb.ui.listing import Listing

        if model is None:
            return Listing(methods())
        return Listing(table(model, namespace=namespace, progress=progress))


def explained(method: Method) -> str:
    """Say all there is to know about a method.

    Parameters
    ----------
    method : Method
        Any, also one that no list names.

    Returns
    -------
    str
        What it does, when to use it, its source, what it can, its defaults and its options.
    """
    can = [f"quantization: {', '.join(method.quantizations)}", f"tasks: {', '.join(tasks_of(method))}"]
    can += [f"batching: {'padding-free' if method.padding_free else 'padded'}"]
    can += ["mergeable"] * method.mergeable + ["hot-swap"] * method.swappable
    lines = [f"%%peft {method.name}", method.help, f"when: {method.when}", f"source: {method.source}", "; ".join(can)]
    lines += ["", "defaults, where a field is null", *_values(method.defaults)]
    given = {**options(method), **dict.fromkeys(method.required, "required")}
    help = method.config_class.help() if isinstance(method.config_class, ConfigClass) else {}
    return "\n".join(
        [*lines, "", "method_options: their defaults, and what their package says of them", *_values(given, help)]
    )


def _values(values: Mapping[str, Any], help: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    lines = []
    for name, value in values.items():
        lines.append(f"  {name}: {value if value == 'required' else json.dumps(value, default=str)}")
        lines += wrap(help.get(name, ""), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return lines
