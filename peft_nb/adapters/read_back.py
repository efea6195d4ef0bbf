"""Written adapters, read by plain PEFT onto a copy of a run's base and compared with each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.evaluation.agreement import Agreement
from peft_nb.models.plain import bare, copied
from peft_nb.models.quiet import quiet
from peft_nb.models.share import share
from peft_nb.spec import RunSpec
from peft_nb.system import adapter_weights
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    import pandas
    from peft import PeftModel

    from peft_nb.adapters.exporters.base import Live


def read_back(live: Live, *folders: Path) -> list[PeftModel]:
    """Put saved adapters on a copy of the base, in float32: what 16 bits round is more than what is looked for.

    Parameters
    ----------
    live : Live
        The run's model, which stays as it is. Of a quantized base the copy holds the numbers its weights stand for.
    *folders : Path
        Where the adapters were saved.

    Returns
    -------
    list of peft.PeftModel
        In evaluation mode; they share the one copy.

    Raises
    ------
    ModelError
        If a weight was not saved, or not loaded.
    """
    with quiet():
        base = copied(bare(live.model)).float()
        return [adapter_weights.load(share(base), folder) for folder in folders]


def compared(candidate: PeftModel, other: PeftModel, live: Live, spec: RunSpec) -> Agreement:
    """Measure how far a model does what another one does, on a run's texts."""
    return TASKS[spec.task].agreement(candidate, other, live.examples, live.facts.task)


def table(found: dict[str, Agreement]) -> pandas.DataFrame:
    """One row a candidate: how near it is to the run."""
    import pandas

    return pandas.DataFrame(
        {"candidate": name, "KL": one.kl, "equal greedy tokens": one.equal, "loss difference": one.loss}
        for name, one in found.items()
    )
