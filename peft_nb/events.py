"""What a run tells the world, as frozen dataclasses.

The worker publishes them; the store and the panels listen side by side, and neither knows of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["created", "preparing", "training", "finished", "stopped", "failed"]

Level = Literal["info", "warning"]

Progress = Callable[[float, str], None]
"""Called with the share that is done (0 to 1) and what is being done; what it raises ends the work cleanly."""


def silent(share: float, what: str) -> None:
    """Be a :data:`Progress` that nobody hears."""


ACTIVE: frozenset[str] = frozenset({"created", "preparing", "training"})


@dataclass(frozen=True)
class StatusChanged:
    """The run entered another stage of its life; ``reason`` says why it stopped or failed."""

    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Preparing:
    """What is being done before, between or after the steps, such as ``loading the model`` or ``evaluating``."""

    what: str


@dataclass(frozen=True)
class TimeLeft:
    """How many seconds it takes until the run ends, with all that is still to come: steps, evaluations, saving."""

    seconds: float


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in plain words: a fallback taken, a row truncated, memory that ran out.

    A warning stands out; ``fix`` says what to do about it, such as ``max_length: 512``.
    """

    text: str
    level: Level = "info"
    fix: str = ""


@dataclass(frozen=True)
class Planned:
    """What training will consist of, known once the data are encoded and the adapter is in place."""

    total_steps: int
    examples: int
    eval_examples: int
    supervised_tokens: int
    trainable_parameters: int
    total_parameters: int
    dtype: str
    device: str
    path: str


@dataclass(frozen=True)
class StepLogged:
    """One logged optimizer step; loss in nats per supervised token, memory in MB, times in seconds.

    On a GPU, ``memory_mb`` is the GPU's and ``host_memory_mb`` that of the process.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    memory_mb: float
    elapsed_s: float
    host_memory_mb: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """Mean loss on the evaluation set after ``step`` optimizer steps; step 0 is the base model, or ``init_adapter``.

    Where tokens are learned, also the share of them that greedy decoding would find.
    """

    step: int
    eval_loss: float
    token_accuracy: float | None = None


@dataclass(frozen=True)
class Scored:
    """What else was measured on the evaluation set after ``step`` steps, such as ``accuracy`` and ``macro_f1``."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Sampled:
    """What the model answers to a prompt of the evaluation set after ``step`` steps; step 0 is the base model.

    Of an image the prompt names it, and ``image`` shows it, as a data URI.
    """

    step: int
    prompt: str
    reference: str
    answer: str
    reward: float | None = None
    image: str = ""


@dataclass(frozen=True)
class Mistaken:
    """An image of the evaluation set, as a data URI, that a model is sure of and wrong about in the end."""

    image: str
    label: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Transcribed:
    """A clip of the evaluation set, as a data URI, with what is said in it and what the model wrote down in the end.

    ``error_rate`` is the share of its words that are wrong, ``before`` what the base model wrote down.
    """

    audio: str
    reference: str
    answer: str
    before: str
    error_rate: float


@dataclass(frozen=True)
class Checkpointed:
    """Everything needed to resume after ``step`` is complete on disk."""

    step: int
    folder: str


@dataclass(frozen=True)
class Resumed:
    """Training resumes from the checkpoint taken after ``step``; later rows of the history no longer hold."""

    step: int


Event = (
    StatusChanged
    | Preparing
    | TimeLeft
    | Notice
    | Planned
    | StepLogged
    | Evaluated
    | Scored
    | Sampled
    | Mistaken
    | Transcribed
    | Checkpointed
    | Resumed
)

Listener = Callable[[Event], None]

KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def to_json(event: Event) -> tuple[str, dict[str, Any]]:
    """Split an event into the name of its kind and its fields.

    Parameters
    ----------
    event : Event
        Any event of this module.

    Returns
    -------
    tuple of str and dict
        A pair that :func:`from_json` turns back into an equal event.
    """
    return type(event).__name__, dict(vars(event))  # asdict would copy what is in it, ten thousand times a second


def from_json(kind: str, fields: dict[str, Any]) -> Event:
    """Rebuild an event from what :func:`to_json` returned.

    Parameters
    ----------
    kind : str
        Name of one of the classes of this module.
    fields : dict
        Its fields.

    Returns
    -------
    Event
        An event equal to the original.
    """
    return KINDS[kind](**fields)
