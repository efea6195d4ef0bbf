"""The engines that there are, and which one answers for some runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from peft_nb.errors import RunError
from peft_nb.serving.engine import Engine
from peft_nb.serving.llama_cpp import LlamaCpp
from peft_nb.serving.targets import Version
from peft_nb.serving.vllm import Vllm

ENGINES: dict[str, type[Engine]] = {kind.name: kind for kind in (Vllm, LlamaCpp)}  # the first that can is taken


def chosen(name: str | None, versions: Sequence[Version], options: Collection[str]) -> type[Engine]:
    """Choose an engine.

    Parameters
    ----------
    name : str or None
        The one that is asked for; by default the first that can answer as all versions, and has all options.
    versions : sequence of Version
        Who is to answer.
    options : collection of str
        Options that were written.

    Raises
    ------
    RunError
        If it cannot, in one line.
    """
    kinds = [ENGINES[name]] if name else [*ENGINES.values()]
    why = ""
    for kind in kinds:
        others = {option for one in ENGINES.values() if one is not kind for option in one.options} - kind.options
        lacks = [f"--{option} is none of {kind.name}'s options; leave it out" for option in sorted(others & {*options})]
        refused = [told for version in versions if (told := kind.refusal(version))]
        why = next(iter([*filter(None, [kind.missing()]), *lacks, *refused]), "")
        if not why:
            return kind
    raise RunError(why)
