"""The ways to add trainable parameters to a frozen base: one registry, one file a family.

A method is added by one registered entry: :func:`register` it in the file of its family and import that file below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft_nb.spec import RunSpec, register_method

if TYPE_CHECKING:
    import pandas
    from peft import PeftConfig, PeftModel


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes
    ----------
    name : str
        The word after ``%%peft``.
    help : str
        What it does and when to use it, one line.
    source : str
        The paper it comes from.
    config : callable
        Makes PEFT's config from a spec; imports PEFT itself.
    quantizations : tuple of str
        How the base may be quantized; the first is the default.
    padding_free : bool
        Whether the method adds no virtual tokens, so that examples may lie end to end.
    mergeable : bool
        Whether the adapter can be folded into the base's weights.
    tasks : tuple of str
        What it can learn: ``generation``, ``classification``.
    """

    name: str
    help: str
    source: str
    config: Callable[[RunSpec], PeftConfig]
    quantizations: tuple[str, ...]
    padding_free: bool
    mergeable: bool
    tasks: tuple[str, ...] = ("generation", "classification")

    def quantization(self, spec: RunSpec) -> str:
        """How the base is quantized under a spec: ``none``, ``4bit`` or ``8bit``."""
        return spec.quantization or self.quantizations[0]


REGISTRY: dict[str, Method] = {}


def register(method: Method) -> None:
    """Make a method known to specs, magics and help.

    Parameters
    ----------
    method : Method
        The entry; its name must be new.
    """
    REGISTRY[method.name] = method
    register_method(method.name, method.help)


def problems(spec: RunSpec) -> list[str]:
    """What a method cannot do with a spec, found before anything is loaded.

    Parameters
    ----------
    spec : RunSpec
        A valid spec.

    Returns
    -------
    list of str
        One line a problem; empty when the method can serve.
    """
    method = REGISTRY[spec.method]
    found, wanted = [], method.quantization(spec)
    if wanted not in method.quantizations:
        able = [other.name for other in REGISTRY.values() if wanted in other.quantizations]
        takes = f"quantization: {spec.method} takes {' or '.join(method.quantizations)}, not {wanted}"
        found.append(takes + (f"; {' or '.join(able)} does" if able else ""))
    if spec.task not in method.tasks:
        able = [other.name for other in REGISTRY.values() if spec.task in other.tasks]
        found.append(f"method: {spec.method} serves {' and '.join(method.tasks)}, not {spec.task}; take {able[0]}")
    return found


def attach(model: Any, spec: RunSpec, base_name: str, whole: Sequence[str] = ()) -> PeftModel:
    """Put a fresh adapter into a model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A module tree of its own; its modules are replaced in place.
    spec : RunSpec
        Method and its settings.
    base_name : str
        What the saved adapter will name as its base.
    whole : sequence of str
        Parts of the model to train in full and save with the adapter, such as a classifier's head.

    Returns
    -------
    peft.PeftModel
        Only the adapter's parameters and the parts trained in full are trainable, in float32.

    Raises
    ------
    MethodError
        If the model has no modules that ``target_modules`` names.
    """
    from peft import TaskType, get_peft_model

    from peft_nb.errors import MethodError

    config = REGISTRY[spec.method].config(spec)
    if spec.task == "classification":
        config.task_type = TaskType.SEQ_CLS
    if whole:
        config.modules_to_save = list(whole)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise MethodError(
            f"target_modules: {spec.target_modules!r} fits no layer of {type(model).__name__}; 'all-linear' always does"
        ) from None
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def methods() -> pandas.DataFrame:
    """List the methods.

    Returns
    -------
    pandas.DataFrame
        One row a method: what it does, how the base may be quantized, whether it merges, which tasks it serves,
        where it comes from.
    """
    import pandas

    rows = [
        {
            "method": entry.name,
            "what it does": entry.help,
            "quantization": ", ".join(entry.quantizations),
            "mergeable": entry.mergeable,
            "tasks": ", ".join(entry.tasks),
            "source": entry.source,
        }
        for entry in REGISTRY.values()
    ]
    return pandas.DataFrame(rows).set_index("method")


from peft_nb.methods import lora, bitfit  # noqa: E402, F401, I001
