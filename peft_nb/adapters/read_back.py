"""Written adapters, read by plain PEFT onto a copy of a run's base, and how near models are as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.evaluation.agreement import Agreement
from peft_nb.models.plain import bare, copied
from peft_nb.models.quiet import quiet
from peft_nb.models.share import share
from peft_nb.system import adapter_weights

if TYPE_CHECKING:
    import pandas
    from peft import PeftModel


def read_back(model: PeftModel, *folders: Path) -> list[PeftModel]:
    """Put saved adapters on a copy of the base, in float32: what 16 bits round is more than what is looked for.

    Parameters
    ----------
    model : peft.PeftModel
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
        base = copied(bare(model)).float()
        return [adapter_weights.load(share(base), folder) for folder in folders]


def table(found: dict[str, Agreement]) -> pandas.DataFrame:
    """One row a candidate: how near it is to the run."""
    import pandas

    return pandas.DataFrame(
        {"candidate": name, "KL": one.kl, "equal greedy tokens": one.equal, "loss difference": one.loss}
        for name, one in found.items()
    )
