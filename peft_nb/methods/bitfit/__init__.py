"""BitFit: only the biases are trained; a model without any gets biases that start at zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft_nb.errors import MethodError, nearest
from peft_nb.methods import Method, register
from peft_nb.spec import RunSpec

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.methods.bitfit.config import BitFitConfig

OPTIONS = ("add", "target_modules")


def register_with_peft() -> None:
    """Let PEFT load BitFit adapters: to be called before ``PeftModel.from_pretrained``, as often as one likes."""
    # Importing the tuner registers it, as with PEFT's own: once in a process, whatever the number of threads.
    import peft_nb.methods.bitfit.model  # noqa: F401


def peft_config(spec: RunSpec) -> BitFitConfig:
    """PEFT's config for BitFit.

    Parameters
    ----------
    spec : RunSpec
        Of its ``method_options``, ``add`` and ``target_modules`` are used, as :class:`BitFitConfig` explains them.

    Returns
    -------
    BitFitConfig
        Ready for ``get_peft_model``.

    Raises
    ------
    MethodError
        If an option is unknown or has no such value.
    """
    register_with_peft()
    from peft import TaskType

    from peft_nb.methods.bitfit.config import BitFitConfig

    options: dict[str, Any] = dict(getattr(spec, "method_options", {}))
    for name in options:
        if name not in OPTIONS:
            raise MethodError(
                f"method_options: bitfit has no option {name!r}; it takes {' and '.join(OPTIONS)}"
                + nearest(str(name), OPTIONS)
            )
    return BitFitConfig(task_type=TaskType.CAUSAL_LM, **options)


def describe(model: PeftModel, adapter: str = "default") -> str:
    """Say which biases an adapter trains.

    Parameters
    ----------
    model : peft.PeftModel
        A model with a BitFit adapter.
    adapter : str
        Its name.

    Returns
    -------
    str
        One line, such as ``bitfit: 210 zero-initialised biases were added to the linear layers of LlamaForCausalLM,
        which had none``.
    """
    from peft_nb.methods.bitfit.layer import BitFitLayer

    layers = [one for one in model.modules() if isinstance(one, BitFitLayer) and adapter in one.bitfit_bias]
    own, name = sum(one.bias is not None for one in layers), type(model.get_base_model()).__name__
    added = len(layers) - own
    if not own:
        return f"bitfit: {added} zero-initialised biases were added to the linear layers of {name}, which had none"
    rest = f", and {added} zero-initialised ones were added to linear layers that had none" if added else ""
    return f"bitfit: {own} biases of {name} are trained{rest}"


register(
    Method(
        name="bitfit",
        help="Trains the biases alone; the smallest adapter, for small shifts in style or domain.",
        source="Ben Zaken et al., 2021, arXiv:2106.10199",
        config=peft_config,
        quantizations=("none", "4bit", "8bit"),
        padding_free=True,
        mergeable=True,
    )
)
