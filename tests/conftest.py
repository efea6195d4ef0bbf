"""A base so small that a run on it takes about a second, and real processes to kill and interrupt."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.data import support_desk
from peft_nb.events import Event, StepLogged
from peft_nb.models import cache as models_cache
from peft_nb.runs.run import Run, active, begin
from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.search import Search
from peft_nb.serving.server import Server
from peft_nb.spec import RunSpec
from peft_nb.spec.names import NAMES
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store
from tests.diffusion import pipeline
from tests.every_method import NEEDED, RATES
from tests.images import vision_model
from tests.serving import serve
from tests.speech import rows as clips
from tests.speech import speech_model

# A machine that is busy with something else makes no test fail.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# What runs measure of a machine and of bases is known to these tests alone, in all workers; the models that are there
# already are shared.
KNOWN = Path(tempfile.gettempdir()) / f"peft_nb-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID') or uuid4().hex}"
KNOWN.mkdir(exist_ok=True)
models_cache.folder("models").parent.mkdir(parents=True, exist_ok=True)
with suppress(FileExistsError):
    (KNOWN / models_cache.folder("models").parent.name).symlink_to(models_cache.folder("models").parent)
os.environ["PEFT_NB_CACHE"] = str(KNOWN)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_configure() -> None:
    """Give each of several workers one core: threads of PyTorch that have to share one wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def few(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of a test, of which only some take part in ``make quick``."""
    return _marked(values, quick, pytest.mark.exhaustive)


def in_turn(values: Iterable[Any], covering: Collection[Any]) -> list[Any]:
    """Parameters of a test, of which some in which each value occurs are tested always, and all by ``make grid``."""
    return _marked(values, covering, pytest.mark.grid)


def _marked(values: Iterable[Any], bare: Collection[Any], mark: pytest.MarkDecorator) -> list[Any]:
    every = {one: one if isinstance(one, tuple) else (one,) for one in values}
    return [one if one in bare else pytest.param(*parts, marks=mark) for one, parts in every.items()]


def stop_at(step: int) -> Callable[[Event], None]:
    """Give a listener that stops whatever is at work at a step; a run may get there before the test can name it."""

    def listener(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == step:
            for run in active():
                run.stop()

    return listener


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """23 questions and answers; 2 are held out, so that an epoch of batches of 5 ends with a batch of 1."""
    return [{"question": row["question"], "answer": row["answer"]} for row in support_desk.load()["train"][:23]]


@pytest.fixture(scope="session")
def rows_file(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows for other processes."""
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="module", autouse=True)
def _set_aside() -> None:
    """Every run collects garbage, and would look through all that libraries and earlier files of tests have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama with a tokenizer trained on the support desk's questions and answers."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    for name in ("datasets", "peft", "peft_nb.plots", "peft_nb.training.trainer"):  # what runs import, before gc.freeze
        import_module(name)

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row[part] for row in support_desk.load()["train"] for part in ("question", "answer")]
    core.train_from_iterator([*texts, "user\nassistant\n"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.1,
                pad_token_id=0,
                eos_token_id=2,
            )
        )
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """IPython with the extension, in an empty folder and with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFT_NB_STORE", str(tmp_path / "store"))
    shell = InteractiveShell.instance()
    peft_nb.load_ipython_extension(shell)
    yield shell
    peft_nb.unload_ipython_extension(shell)
    InteractiveShell.clear_instance()


@pytest.fixture(scope="session")
def spec(base: Path) -> Callable[..., RunSpec]:
    """Describe a run on the tiny base; every field can be set otherwise."""

    def describe(**fields: Any) -> RunSpec:
        small = {"data": "(in memory)", "dtype": "float32", "device": "cpu", "batch_size": 5, "max_steps": 8}
        usual = {"model": str(base), "learning_rate": 1e-2, "eval_steps": 4, "judge": "off"}
        return RunSpec(**{**usual, **small, **fields})

    return describe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for the runs of one file of tests."""
    return Store(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def learn(spec: Callable[..., RunSpec], rows: list[dict[str, str]], runs: Store) -> Callable[..., Run]:
    """Train a method on the rows, which are evaluated on too."""

    def learn(method: str, *listeners: Any, **fields: Any) -> Run:
        rate, few = RATES.get(method, 1e-2), {"eval_data": "rows", "max_steps": 6, "eval_steps": None}
        wanted = {"method": method, "learning_rate": rate, **few, **NEEDED.get(method, {}), **fields}
        return begin(spec(**wanted), data=rows, namespace={"rows": rows}, store=runs, listeners=listeners).wait()

    return learn


@pytest.fixture(scope="module")
def trained(learn: Callable[..., Run]) -> Callable[[str], Run]:
    """An undisturbed run of each method."""
    return cache(learn)


@pytest.fixture
def start(spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store) -> Callable[..., Run]:
    """Begin a run on the tiny base and the rows in memory."""

    def start(*listeners: Any, **fields: Any) -> Run:
        return begin(spec(**fields), data=rows, store=store, listeners=listeners)

    return start


@pytest.fixture(scope="session")
def finished(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with the usual settings, for whoever only reads from it."""
    return begin(spec(), data=rows, store=Store(tmp_path_factory.mktemp("finished"))).wait()


Python = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def searching(spec: Callable[..., RunSpec], rows: list[dict[str, str]]) -> Callable[..., Search]:
    """Begin a sweep on the tiny base and the rows in memory; fields are those of a sweep or of a run."""

    def begin_sweep(store: Store, *, study: Any = None, first: Any = (), **fields: Any) -> Search:
        varied = {"sweep": {"learning_rate": [1e-3, 1e-2, 3e-2]}, **fields}
        common = spec(max_steps=9, eval_steps=None).changed()
        common = {name: value for name, value in common.items() if name not in varied["sweep"]}
        described = SweepSpec(**{**common, **varied})
        return search.begin(described, data=rows, store=store, study=study, first=first)

    return begin_sweep


@pytest.fixture(scope="session")
def swept(searching: Callable[..., Search], tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A finished sweep of eight trials, of which some were stopped early, for whoever only reads from it."""
    space = {"method": ["lora", "ia3"], "r": [2, 4], "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True}}
    begun = searching(Store(tmp_path_factory.mktemp("swept")), sweep=space, trials=8, name="tickets")
    begun.wait()
    return begun


@pytest.fixture(scope="session")
def talkers(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> list[Run]:
    """Two finished runs in one store: ``calm``, with a system prompt, and ``short``."""
    store = Store(tmp_path_factory.mktemp("talk"))
    kinds = [{"name": "calm", "max_steps": 12, "system": "Be kind."}, {"name": "short"}]
    return [begin(spec(**kind), data=rows, store=store).wait() for kind in kinds]


@pytest.fixture(scope="session")
def desk(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """Finished runs in one store: ``tickets`` twice, ``manners`` with a system prompt, by DoRA, and by a prompt."""
    store = Store(tmp_path_factory.mktemp("desk"))
    kinds: dict[str, dict[str, Any]] = {
        "tickets@v1": {},
        "tickets@v2": {"learning_rate": 3e-2, "seed": 1},
        "manners@v1": {"system": "Be kind.", "max_steps": 12},
        "manners@v2": {"method": "dora"},
        "manners@v3": {"method": "prompt", "max_steps": 1},
    }
    return {
        word: begin(spec(name=word.partition("@")[0], **kind), data=rows, store=store).wait()
        for word, kind in kinds.items()
    }


@pytest.fixture(scope="session")
def served(desk: dict[str, Run]) -> Iterator[Server]:
    """A server of the LoRAs, for whoever only asks it."""
    server = serve(Store(desk["manners@v2"].folder.parents[1]), "tickets@v1", "tickets@v2", "manners@v1")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    """Start Python processes with a pipe for what they print; none is left behind."""
    with ExitStack() as stack:

        def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
            command = [sys.executable, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
            stack.callback(process.kill)
            return process

        yield start


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel refuse files that grow larger, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


KINDS = {"fruit": ("apple", "plum", "fig"), "tool": ("saw", "drill", "nail"), "bird": ("crow", "wren", "owl")}


@pytest.fixture(scope="session")
def labelled() -> list[dict[str, str]]:
    """480 texts of 3 classes, each with one word that gives its class away."""
    draw, fill = random.Random(0), ("we", "saw", "a", "red", "one", "in", "the", "yard")
    rows = []
    for kind in [*KINDS] * 160:
        words = [draw.choice(fill[:1] + fill[2:]) for _ in range(draw.randrange(2, 9))]
        words.insert(draw.randrange(len(words)), draw.choice(KINDS[kind]))
        rows.append({"text": " ".join(words), "label": kind})
    return rows


@pytest.fixture(scope="session")
def encoder(labelled: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT that was trained with mean pooling, so it says, with a word for each token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = dict.fromkeys(word for row in labelled for word in row["text"].split())
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        places = {"max_position_embeddings": 16, "initializer_range": 0.2}
        model = BertModel(BertConfig(vocab_size=len(vocabulary), **sizes, **dropout, **places))
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, **tokens).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    return folder


@pytest.fixture(scope="session")
def kinds(spec: Callable[..., RunSpec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two finished runs in one store, ``fruit`` and ``tool``, whose prompts have no word in common."""
    store, draw, runs = Store(tmp_path_factory.mktemp("kinds")), random.Random(0), {}
    for name in ("fruit", "tool"):
        prompts = {" ".join(draw.choices(KINDS[name], k=draw.randrange(3, 8))): None for _ in range(60)}
        learned = [{"prompt": prompt, "completion": name} for prompt in prompts]
        told = spec(name=name, max_steps=3, eval_steps=None, eval_data="held_out")
        names = {"held_out": learned[30:36]}
        runs[name] = begin(told, data=learned[:30], namespace=names, store=store).wait()
    return runs


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random ViT for images of 32 pixels."""
    return vision_model(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Whisper for clips of 2 seconds."""
    return speech_model(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def train_speech(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Train that Whisper on tones that stand for words."""
    store = Store(tmp_path_factory.mktemp("speech-store"))

    def train(*listeners: Any, data: Any = None, **fields: Any) -> Run:
        small = {"data": "(in memory)", "model": str(speech), "dtype": "float32", "device": "cpu", "batch_size": 8}
        usual = {"task": "speech-recognition", "language": "en", "learning_rate": 1e-2, "max_steps": 6, "eval_steps": 3}
        rows = clips(48) if data is None else data
        return begin(RunSpec(**{**small, **usual, **fields}), data=rows, store=store, listeners=listeners).wait()

    return train


@pytest.fixture(scope="session")
def listener(train_speech: Callable[..., Run]) -> Run:
    """A finished run of it, only to be read."""
    return train_speech(
        max_steps=40, eval_steps=20, eval_fraction=0.2, freeze_encoder=False, accept={"word_error_rate": "< 99"}
    )


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random pipeline of diffusers for images of 8 pixels in grey."""
    return pipeline(tmp_path_factory.mktemp("drawing"))


@pytest.fixture(scope="session")
def plain_encoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same BERT without a word on how it pools."""
    folder = tmp_path_factory.mktemp("plain-encoder")
    shutil.copytree(encoder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("1_Pooling"))
    return folder


@pytest.fixture(scope="module")
def any_method() -> Iterator[None]:
    """Let specs name methods that are not registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NAMES, "method", {})
        yield
