"""The proof of a GGUF file: llama.cpp runs it, and is compared with transformers token by token."""

from __future__ import annotations

import gc
import json
import math
import os
import secrets
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import MergeError
from peft_nb.events import Progress, silent

if TYPE_CHECKING:
    import pandas

# The largest mean KL divergence in nats per token; bfloat16 keeps 3 bits less than float16. Others show what they lose.
BOUNDS = {"f32": 0.001, "f16": 0.001, "bf16": 0.005, "q8_0": 0.01}
MISSING = "not proven: llama.cpp is not installed; pip install 'peft_nb[export]' and export it again"
TOP = 256  # of so many most likely tokens llama.cpp is asked for the probabilities; the others are one event
ANSWER = 12  # tokens of each answer
CONTEXT = 512  # tokens that a prompt and its answer may have

# Texts that tokenizers split in their own ways.
TEXTS = (
    "Hello, world! It's 3 o'clock; we'll see what they've got.",
    "  two  spaces\n\n   and\ttabs \n",
    "order 4711, 10 km, 3.14159, 1,000,000 and ½ ²",
    "日本語と中文, русский текст, العربية, ελληνικά",
    "🙂 👩‍👩‍👧 🇩🇪 café naïve",
    "def f(x):\n    return x**2  # CamelCase_and_snake == 'yes'",
    "",
)
# Conversations that templates render in their own ways.
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Two words,\n please. "}],
    [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 × 3? <b>&amp;</b>"},
    ],
)


@dataclass(frozen=True)
class Proof:
    """How near llama.cpp's answers with a GGUF file are to those of transformers.

    Attributes
    ----------
    table : pandas.DataFrame, optional
        One row a check, with what was compared and what was found; None where llama.cpp is not installed.
    told : str
        What ran the file, and to which texts the equality is limited.
    """

    table: pandas.DataFrame | None
    told: str

    def written(self) -> str:
        """The proof as JSON, to be kept beside the file."""
        rows = [] if self.table is None else self.table.to_dict("records")
        return json.dumps({"told": self.told, "checks": rows}, indent=2, ensure_ascii=False) + "\n"


class Runtime:
    """llama.cpp's server with one file, on the loopback interface until it is forgotten."""

    def __init__(self, file: Path, lora: Path | None = None) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = CONTEXT, 1, False, -1
        params.hostnames, self._key = ["127.0.0.1"], secrets.token_hex()
        params.api_keys = [self._key]  # or any page in a browser here could ask it
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _cores()
        if lora:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise MergeError(f"llama.cpp cannot load {file.name}: {error}") from None
        # Nothing but this machine is asked, whatever proxy the environment names.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path: str, **question: Any) -> dict[str, Any]:
        """Ask one of llama.cpp's server, such as ``/tokenize``."""
        body = json.dumps(question).encode()
        address = f"{self._server.listening_address}{path}"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        with self._open(urllib.request.Request(address, body, headers)) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prove(
    file: Path,
    folder: Path,
    prompts: Sequence[Sequence[int]] = (),
    *,
    outtype: str = "f16",
    adapter: Path | None = None,
    lora: Path | None = None,
    alone: tuple[Path, Path] | None = None,
    notes: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Proof:
    """Have llama.cpp run a file, and compare it with transformers.

    Parameters
    ----------
    file : Path
        The model's GGUF file.
    folder : Path
        The plain transformers folder that it was written from, which is computed in float32.
    prompts : sequence of sequence of int
        Token ids to go on from, some; by default the texts and conversations that this module has.
    outtype : str
        How the file holds its matrices, which says what it may lose: see ``BOUNDS``.
    adapter, lora : Path, optional
        A PEFT folder on top of ``folder``, and the LoRA GGUF that was written from it, on top of ``file``.
    alone : tuple of Path, optional
        The base's own file in the same outtype and its folder, to tell what that outtype costs without the adapter.
    notes : tuple of str
        To which texts the equality is limited.
    progress : callable
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Proof
        What was found; without a table where llama.cpp is not installed.

    Raises
    ------
    MergeError
        The file answers otherwise, with the table that says where.
    """
    import pandas
    from transformers import AutoTokenizer

    if not util.find_spec("xllamacpp"):
        return Proof(None, "; ".join([MISSING, *notes]))
    progress(0.0, "comparing the tokenizer and the chat template in llama.cpp")
    tokenizer, runtime = AutoTokenizer.from_pretrained(folder, local_files_only=True), Runtime(file, lora)
    rows = [_tokens(runtime, tokenizer, prompts)]
    if tokenizer.chat_template:
        rows.append(_chats(runtime, tokenizer))
    asked = [list(one)[: CONTEXT - ANSWER] for one in prompts] or _usual(tokenizer)
    progress(0.2, "comparing answers of llama.cpp with the model's")
    answers = _answers(runtime, asked)
    del runtime  # and its memory
    gc.collect()
    progress(0.6, "comparing answers of the model with llama.cpp's")
    near = _near(folder, adapter, asked, answers)
    bound = BOUNDS.get(outtype)
    allowed, places = f"up to {bound:g}" if bound else NO_BOUND, f"{near.tokens} tokens of {len(asked)} answers"
    rows += [
        _row("KL divergence, nats per token", near.compared, f"{near.kl:.2g}", allowed),
        _row("equal greedy tokens", places, f"{near.equal:.1%}", NO_BOUND),
    ]
    cost = ""
    if alone:
        progress(0.8, f"comparing the base alone in {outtype}")
        base = _near(alone[1], None, asked, _answers(Runtime(alone[0]), asked))
        rows.append(_row(f"KL divergence of the base alone in {outtype}", base.compared, f"{base.kl:.2g}", NO_BOUND))
        cost = f"; {outtype} costs the base alone {base.kl:.2g}"
    table = pandas.DataFrame(rows)
    exact = [row for row in rows if row["allowed"] == ALL and row["found"] != ALL]
    if exact or (bound and not near.kl <= bound):
        first = exact[0]["check"] if exact else f"KL divergence {near.kl:.2g} nats per token, more than {bound:g}{cost}"
        raise MergeError(f"llama.cpp does otherwise ({first}), so nothing is kept", table.to_string(index=False))
    return Proof(table, "; ".join([f"run by llama.cpp (xllamacpp {metadata.version('xllamacpp')})", *notes]))


ALL, NO_BOUND = "all equal", "no bound"


def _row(check: str, compared: str, found: str, allowed: str = ALL) -> dict[str, str]:
    return {"check": check, "compared": compared, "found": found, "allowed": allowed}


def _told(unequal: Sequence[str]) -> str:
    return f"unequal: {unequal[0][:60]!r}" if unequal else ALL


def _tokens(runtime: Runtime, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> dict[str, str]:
    """Whether both make the same tokens of the same texts."""
    texts = [*TEXTS, *(tokenizer.decode(ids, skip_special_tokens=False) for ids in prompts)]
    unequal = [
        text
        for text in texts
        if runtime.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        != tokenizer(text)["input_ids"]
    ]
    return _row("tokens of texts", f"{len(texts)} texts", _told(unequal))


def _chats(runtime: Runtime, tokenizer: Any) -> dict[str, str]:
    """Whether both render the same conversations alike, byte for byte, and make the same tokens of them."""
    rendered, unequal = 0, []
    for chat in CHATS:
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template is somebody's program and can refuse a conversation
            continue
        rendered += 1
        theirs = runtime.ask("/apply-template", messages=chat)["prompt"]
        made = runtime.ask("/tokenize", content=theirs, add_special=True, parse_special=True)["tokens"]
        # llama.cpp takes a first bos_token away where it puts one before every text.
        same = theirs in (text, text.removeprefix(tokenizer.bos_token or ""))
        if not same or made != tokenizer(text, add_special_tokens=False)["input_ids"]:
            unequal.append(theirs)
    return _row("chat template", f"{rendered} conversations, byte for byte", _told(unequal))


def _usual(tokenizer: Any) -> list[list[int]]:
    """What to go on from where no prompts are given."""
    if not tokenizer.chat_template:
        return [ids for text in TEXTS[:4] if (ids := tokenizer(text)["input_ids"])]
    options = {"tokenize": False, "add_generation_prompt": True}
    asked = [tokenizer.apply_chat_template([{"role": "user", "content": text}], **options) for text in TEXTS[:4]]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked]


def _answers(runtime: Runtime, asked: Sequence[list[int]]) -> list[dict[str, Any]]:
    """What llama.cpp says greedily, and how likely it held which tokens."""
    how = {"n_predict": ANSWER, "n_probs": TOP, "temperature": 0, "cache_prompt": False, "return_tokens": True}
    return [runtime.ask("/completion", prompt=ids, **how) for ids in asked]


@dataclass(frozen=True)
class Near:
    """How near answers are to a model, as means over their tokens."""

    tokens: int
    kl: float
    covered: float
    equal: float

    @property
    def compared(self) -> str:
        """What these means are over."""
        return f"{self.tokens} tokens, {self.covered:.1%} of probability"


def _near(folder: Path, adapter: Path | None, asked: Sequence[list[int]], answers: Sequence[Mapping[str, Any]]) -> Near:
    import torch

    model = _reference(folder, adapter)
    with torch.inference_mode():
        found = [one for ids, said in zip(asked, answers, strict=True) for one in _divergence(model, ids, said)]
    count = len(found)
    return Near(count, *(sum(one[place] for one in found) / count if count else math.nan for place in range(3)))


def _reference(folder: Path, adapter: Path | None) -> Any:
    """The model in transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from peft_nb.models.quiet import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def _divergence(model: Any, ids: list[int], said: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """For each token of an answer: KL divergence from the model, how much of it was told, and equal greedy tokens."""
    import torch

    logits = model(torch.tensor([ids + said["tokens"]], device=model.device)).logits[0, len(ids) - 1 : -1]
    found = []
    for ours, step in _aligned(logits.double().log_softmax(-1).cpu(), said):
        places = torch.tensor([one["id"] for one in step["top_logprobs"]])
        theirs = torch.tensor([one["logprob"] for one in step["top_logprobs"]], dtype=torch.float64)
        p, q = ours[places].exp(), theirs.exp()
        kl = (p * (ours[places] - theirs)).sum().item()
        covered = p.sum().item()
        if len(places) < len(ours):  # the others are one event
            rest, other = max(1 - covered, 0.0), max(1 - q.sum().item(), 1e-12)
            kl += rest * math.log(rest / other) if rest > 0 else 0.0
        found.append((max(kl, 0.0), min(covered, 1.0), float(ours.argmax().item() == step["id"])))
    return found


def _aligned(logits: Any, said: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Both predictions of each token; llama.cpp tells none of a token that ends within a letter."""
    told = iter(said["completion_probabilities"])
    step = next(told, None)
    for ours, token in zip(logits, said["tokens"], strict=True):
        if step and step["id"] == token:
            yield ours, step
            step = next(told, None)
