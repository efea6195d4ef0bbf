"""What speaks for and against the methods, and when fine-tuning is the wrong tool: two tables, read from the top.

A rule names methods by what the registry knows of them, and by name only where a paper is about that very method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from peft_nb.methods import Method
from peft_nb.spec.fields import Number, Switch, TaskName, Whole, Word, field
from peft_nb.tasks import TASKS, Task

Goal = Literal[
    "style", "format", "classification", "domain", "reasoning", "language", "knowledge", "preferences", "checkable",
    "common", "unclear",
]  # fmt: skip
LAYOUTS = {"classification": "labelled", "preferences": "preference", "checkable": "prompt"}  # kind of rows by goal

REWARD = "your_reward"  # the name of a function that is still to be written
FEW, MANY, SHORT_MINUTES = 200, 20_000, 15
LONG = 1024  # tokens: what RunSpec keeps of a row by default


class Situation(BaseModel):
    """What is known about a fine-tuning job before it begins; null is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: TaskName | None = field(None, "advice")
    """What to train for; null derives it from the goal and the data."""
    goal: Goal | None = field(None, "advice")
    """What should change: writing style, an output format, classification, a domain's texts, reasoning, a language,
    facts (knowledge), which answers people prefer where none is simply right (preferences), results that a program can
    check (checkable); common is what chat models do already, such as summaries; unclear is not defined yet."""
    data: Word | None = field(None, "advice")
    """Name of the training rows, which are counted and measured."""
    rows: Whole | None = field(None, "advice", "rows", ge=0, le=10**12)
    """How many training rows there are."""
    classes: Whole | None = field(None, "advice", "classes", ge=1, le=10**9)
    """How many classes there are to tell apart."""
    tokens: Whole | None = field(None, "advice", "tokens", ge=1, le=10**9)
    """95th percentile of the row length."""
    model: Word | None = field(None, "advice")
    """The base model, if it is chosen already."""
    parameters: Number | None = field(None, "advice", "parameters", gt=0, le=10**14)
    """Parameters of the base model; null reads them from the model if it is on this machine."""
    memory_gb: Number | None = field(None, "advice", "GB", gt=0, le=10**6)
    """Memory available for training."""
    minutes: Number | None = field(None, "advice", "minutes", gt=0, le=10**6)
    """Time available for training."""
    must_merge: Switch = field(False, "advice")
    """The adapter has to be merged into the base's weights."""
    many_adapters: Switch = field(False, "advice")
    """Many adapters are served side by side on one base."""

    @property
    def learned(self) -> Task:
        """What is to be learned."""
        return TASKS[self.task] if self.task else next(iter(TASKS.values()))

    @property
    def labelled(self) -> bool:
        """Whether texts or images are to get labels."""
        return self.learned.stratify

    @property
    def judged(self) -> bool:
        """Whether answers are judged, in pairs or one by one."""
        return self.learned.accepts[0] in ("preference", "rated")

    @property
    def few(self) -> bool:
        """Whether there are few rows."""
        return self.rows is not None and self.rows < FEW

    @property
    def many(self) -> bool:
        """Whether there are many rows."""
        return self.rows is not None and self.rows >= MANY

    @property
    def hurried(self) -> bool:
        """Whether there is little time."""
        return self.minutes is not None and self.minutes < SHORT_MINUTES

    @property
    def capacity(self) -> bool:
        """Whether much has to be learned."""
        return self.many or self.goal in ("knowledge", "language", "reasoning")

    def short_of(self, bytes_a_weight: float, besides_gb: float) -> bool:
        """Whether weights of this size, and what a run takes besides, are known not to fit."""
        if self.memory_gb is None or self.parameters is None:
            return False
        return self.memory_gb < self.parameters * bytes_a_weight / 1e9 + besides_gb

    @property
    def tight(self) -> bool:
        """Whether the base in float32 does not fit, with the 3 GB measured besides it on the default model."""
        return self.short_of(4, 1.5 if self.labelled else 3)

    @property
    def too_tight(self) -> bool:
        """Whether not even 4 bits a weight fit; 0.75 bytes are QLoRA's 65 billion in 48 GB."""
        return self.short_of(0.75, 0.75 if self.labelled else 1.5)


@dataclass(frozen=True)
class Rule:
    """Points for or against methods, with the reason, its evidence and the fields of the spec it sets."""

    when: Callable[[Situation], bool]
    methods: Callable[[Method], bool]
    points: int
    reason: str
    evidence: str
    sets: Callable[[Situation, Method], Mapping[str, Any]] = lambda situation, method: {}


@dataclass(frozen=True)
class Detour:
    """When fine-tuning is the wrong tool, or not yet the right one, and what to do instead."""

    when: Callable[[Situation], bool]
    problem: str
    instead: str
    evidence: str


def named(*names: str) -> Callable[[Method], bool]:
    """Choose methods by name; those that are not registered are no mistake."""
    return lambda method: method.name in names


def every(method: Method) -> bool:
    """Choose all methods."""
    return True


def always(situation: Situation) -> bool:
    """Hold in every situation."""
    return True


THUMB = "rule of thumb"

RULES: tuple[Rule, ...] = (
    Rule(
        always, named("lora"), 4,
        "on all linear layers it did as well as full fine-tuning", "Dettmers et al., 2023, section 4",
    ),
    Rule(always, named("dora"), 1, "a little better than LoRA at the same rank, and slower", "Liu et al., 2024"),
    Rule(
        always, lambda method: not method.padding_free, -2,
        "takes virtual tokens, so every batch is padded, which is slower", "this project's benchmarks",
    ),
    Rule(
        always, named("prompt", "p-tuning"), -2,
        "reaches other methods only on bases of about ten billion parameters", "Lester et al., 2021, figure 1",
    ),
    Rule(
        lambda s: not s.tight, named("qlora"), -3,
        "saves memory, not time, and the weights are quantized; as far as known, the base fits without",
        "this project's benchmarks",
    ),
    Rule(
        lambda s: s.tight, named("qlora"), 8,
        "keeps the frozen weights in 4 bits, an eighth of float32", "Dettmers et al., 2023, section 3",
    ),
    Rule(
        lambda s: s.tight, lambda method: "4bit" not in method.quantizations, -8,
        "the base cannot be quantized under it, and does not fit otherwise", THUMB,
    ),
    Rule(
        lambda s: s.tight, lambda method: "4bit" in method.quantizations, 0,
        "quantized to 4 bits, with gradient checkpointing", "Chen et al., 2016, arXiv:1604.06174",
        lambda s, method: {"quantization": "4bit", "gradient_checkpointing": True},
    ),
    Rule(
        lambda s: s.must_merge, lambda method: method.mergeable and "none" in method.quantizations, 1,
        "merges exactly into the weights it was trained on; inference is not slower", "Hu et al., 2021, section 4",
    ),
    Rule(
        lambda s: s.must_merge, named("qlora"), -2,
        "trained on quantized weights; merged into the original ones it answers slightly differently",
        "measured with this project",
    ),
    Rule(
        lambda s: s.many_adapters, lambda method: method.swappable, 2,
        "hot-swap: adapters of this kind are exchanged on one base, even within a batch", "Sheng et al., 2023, S-LoRA",
    ),
    Rule(
        lambda s: s.many_adapters, named("vera"), 4,
        "shares its matrices between adapters: a tenth of LoRA's parameters", "Kopiczko et al., 2023",
    ),
    Rule(
        lambda s: s.many_adapters, named("ia3"), 4,
        "a few thousand parameters per adapter, made for many tasks on one base", "Liu et al., 2022, section 3.3",
    ),
    Rule(
        lambda s: s.many_adapters, named("prefix", "prompt", "lokr"), 2,
        "a small file per adapter", "Li and Liang, 2021; Lester et al., 2021; Yeh et al., 2023",
    ),
    Rule(
        lambda s: s.few, named("ia3"), 3,
        "with few rows it beat examples in the prompt at a fraction of the cost", "Liu et al., 2022, section 4",
    ),
    Rule(
        lambda s: s.few, named("bitfit", "ln-tuning"), 2,
        "few trainable parameters memorize little", "Ben Zaken et al., 2021; Zhao et al., 2023",
    ),
    Rule(
        lambda s: s.few, lambda method: method.defaults.get("r") == 16, 0,
        "a low rank is enough for few rows", THUMB, lambda s, method: {"r": 8, "alpha": method.defaults["alpha"] / 2},
    ),
    Rule(
        lambda s: s.many, every, 0,
        "one epoch is enough for many rows", THUMB, lambda s, method: {"epochs": 1.0},
    ),
    Rule(
        lambda s: s.capacity, named("rslora"), 4,
        "much has to be learned: it makes use of high ranks, which LoRA's scaling wastes", "Kalajdzievski, 2023",
        lambda s, method: {"r": 64, "alpha": 16.0},
    ),
    Rule(
        lambda s: s.capacity, named("lora"), -1,
        "at a low rank it learns less than full fine-tuning from a lot of new material", "Biderman et al., 2024",
    ),
    Rule(
        lambda s: s.capacity and not s.hurried and not s.tight, named("full"), 2,
        "learns more than LoRA from a lot of new material, and forgets more", "Biderman et al., 2024",
    ),
    Rule(
        lambda s: s.goal == "language", named("bottleneck"), 3,
        "adapters between the layers taught languages well", "Pfeiffer et al., 2020, MAD-X; Yong et al., 2023",
    ),
    Rule(
        lambda s: s.goal == "reasoning", named("dora"), 2,
        "ahead of LoRA on commonsense reasoning", "Liu et al., 2024, table 1",
    ),
    Rule(
        lambda s: s.goal == "style", named("ln-tuning"), 3,
        "the norms alone were enough to adapt chat models to a new kind of input", "Zhao et al., 2023",
    ),
    Rule(
        lambda s: s.goal in ("style", "format", "domain"), named("lora"), 1,
        "the base has the ability already: a thousand good rows are enough to bring it out", "Zhou et al., 2023, LIMA",
    ),
    Rule(
        lambda s: s.goal in ("format", "domain"), named("pissa"), 1,
        "learns faster than LoRA at first, and a format is learned quickly", "Meng et al., 2024",
    ),
    Rule(
        lambda s: s.labelled, named("bitfit", "ia3"), 2,
        "close to full fine-tuning on classification with little data", "Ben Zaken et al., 2021; Liu et al., 2022",
    ),
    Rule(
        lambda s: s.labelled and s.model is None and s.learned.unit == "text", every, 0,
        "an encoder classifies faster than a model that writes", "Reimers and Gurevych, 2019",
        lambda s, method: {"model": s.learned.model},
    ),
    Rule(
        lambda s: s.labelled and s.model is None and s.learned.unit == "image", every, 0,
        "what a model has seen in millions of images without labels serves new classes", "Oquab et al., 2023, DINOv2",
        lambda s, method: {"model": s.learned.model},
    ),
    Rule(
        lambda s: s.learned.base == "speech" and s.model is None, every, 0,
        "what a model has heard in 680,000 hours of speech needs few clips for new words", "Radford et al., 2022",
        lambda s, method: {"model": s.learned.model},
    ),
    Rule(
        lambda s: s.learned.unit == "pair", every, 0,
        "many judgements and no right answers: pairs teach which of two is preferred (dpo), on a base that can write "
        "such answers already; learning_rate is left to the task", "Rafailov et al., 2023",
    ),
    Rule(
        lambda s: "rated" in s.learned.accepts, every, 0,
        "many judgements and no right answers: ratings one by one need no pairs (kto); learning_rate is left to the "
        "task", "Ethayarajh et al., 2024",
    ),
    Rule(
        lambda s: "prompt" in s.learned.accepts, every, 0,
        "a result that can be checked is a reward: the model learns from its own answers (grpo)", "Shao et al., 2024",
        lambda s, method: {"reward": [REWARD]},
    ),
    Rule(
        lambda s: s.hurried, named("pissa"), 3, "learns faster than LoRA in the first steps", "Meng et al., 2024",
    ),
    Rule(
        lambda s: s.hurried, named("lora-plus"), 2,
        "up to twice as fast to the same loss", "Hayou et al., 2024, section 5",
    ),
    Rule(
        lambda s: s.hurried, named("adalora", "boft", "dora", "full", "p-tuning", "prefix", "prompt"), -2,
        "needs more time per step, or many more steps", THUMB,
    ),
    Rule(
        lambda s: s.hurried and not s.many, every, 0, "little time: one epoch", THUMB,
        lambda s, method: {"epochs": 1.0},
    ),
    Rule(
        lambda s: (s.tokens or 0) > LONG, every, 0, "rows are long: 95 % of them fit without truncation", "the data",
        lambda s, method: {"max_length": min(-(-(s.tokens or LONG) // 256) * 256, 1_000_000)},
    ),
)  # fmt: skip

DETOURS: tuple[Detour, ...] = (
    Detour(
        lambda s: s.goal == "unclear" or (s.goal is None and not s.rows and not s.labelled and not s.judged),
        "it is not defined yet what a good answer is",
        "write 20 examples with correct answers and a score for wrong ones, or judge pairs of answers (blind vote in "
        "%peft compare) where none is simply right; then ask again with --goal and --rows",
        THUMB,
    ),
    Detour(
        lambda s: s.goal == "knowledge",
        "fine-tuning is a poor way to teach broad new facts, and makes a model invent more",
        "put the documents into the prompt by retrieval; fine-tune for how to answer from them",
        "Ovadia et al., 2023, arXiv:2312.05934; Gekhman et al., 2024, arXiv:2405.05904",
    ),
    Detour(
        lambda s: s.rows is not None and not s.labelled and 0 < s.rows < 20,
        "these are too few rows for training and evaluation",
        "put them into the prompt as examples (few-shot), and collect a hundred",
        "Brown et al., 2020, arXiv:2005.14165",
    ),
    Detour(
        lambda s: s.rows is not None and s.labelled and s.rows < 8 * (s.classes or 2),
        "these are too few rows for the classes: fewer than eight each",
        "put them into the prompt of a chat model as examples, and label more",
        "Tunstall et al., 2022, arXiv:2209.11055, where eight a class were enough",
    ),
    Detour(
        lambda s: s.goal == "common",
        "chat models can do this without fine-tuning",
        "evaluate the base model on 50 rows first, with a good prompt; fine-tune only what it gets wrong",
        "Wei et al., 2021, arXiv:2109.01652",
    ),
    Detour(
        lambda s: s.goal == "language" and s.rows is not None and s.rows < 10_000,
        "a language is not learned from so few rows",
        "take a base that speaks it, or first train on plain text of it, ten thousand passages and more",
        "rule of thumb; on teaching a base a language: Yong et al., 2023, arXiv:2212.09535",
    ),
    Detour(
        lambda s: s.too_tight,
        "the base does not fit into this memory, not even in 4 bits",
        "take a smaller base",
        "rule of thumb: 0.75 bytes a weight, and 1.5 GB besides",
    ),
)
