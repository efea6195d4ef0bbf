"""Full fine-tuning: every weight of the base is trained, the yardstick for all other methods.

The package is a tuner like PEFT's own (config, layer, model): the base keeps its weights and each wrapped module
computes with a trained copy of them, so that what is trained is saved, loaded, switched and disabled as any adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.methods import Method, register
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from peft_nb.methods.full.config import FullConfig


def register_with_peft() -> None:
    """Let PEFT load adapters of this kind: to be called before ``PeftModel.from_pretrained``, as often as one likes."""
    # Importing the tuner registers it, as with PEFT's own: once in a process, whatever the number of threads.
    import peft_nb.methods.full.model  # noqa: F401


def config(spec: RunSpec) -> FullConfig:
    """PEFT's config for full fine-tuning.

    Parameters
    ----------
    spec : RunSpec
        Its ``target_modules``, where ``all-linear`` (the default) means everything, and ``method_options``, which are
        fields of :class:`FullConfig`.

    Returns
    -------
    FullConfig
        Ready for ``get_peft_model``.

    Raises
    ------
    MethodError
        If a setting is wrong.
    """
    from peft import TaskType

    from peft_nb.methods.full.config import FullConfig

    targets = spec.target_modules
    given = {"target_modules": targets if isinstance(targets, str) else list(targets)}
    return FullConfig(task_type=TaskType.CAUSAL_LM, **(given | getattr(spec, "method_options", {})))


register(
    Method(
        name="full",
        help="Every weight, on a float32 copy of the base; the yardstick, at a learning_rate near 2e-5.",
        source="Howard and Ruder, 2018, arXiv:1801.06146",
        config=config,
        quantizations=("none",),
        padding_free=True,
        mergeable=True,
    )
)
