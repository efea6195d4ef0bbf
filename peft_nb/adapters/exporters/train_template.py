"""Train an adapter with PyTorch, transformers and PEFT alone.

    python train.py [MODEL]

Beside this file lie train.jsonl and held_out.jsonl, one example per line; the adapter is written there too. All that is
random follows from the seed, so that every step has the loss that it had in the run from which this was exported.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

# --- settings ---
MODEL, REVISION = "HuggingFaceTB/SmolLM2-135M-Instruct", None
DTYPE, DEVICE = torch.float32, "cpu"
CONFIG: Any = peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32.0, target_modules="all-linear")

CHAT_TEMPLATE = None  # the tokenizer's own
ADD_BOS = False  # whether a beginning-of-text token goes before what the template writes
END = "<|im_end|>"  # ends every answer
LOSS_ON = "assistant"
MAX_LENGTH = 1024  # tokens

STEPS = 300
BATCH_SIZE, GRADIENT_ACCUMULATION_STEPS = 8, 1
LEARNING_RATE = 0.0002
LR_SCHEDULER_TYPE, WARMUP_STEPS = "linear", 0
OPTIM, WEIGHT_DECAY, MAX_GRAD_NORM = "adamw_torch_fused", 0.0, 1.0
NEFTUNE_NOISE_ALPHA = None
GRADIENT_CHECKPOINTING = False
SEED = 42
# --- end of settings ---

HERE = Path(__file__).resolve().parent
# Where the base was changed in memory: what it had of its own.
TOKENIZER, EMBEDDINGS = HERE / "tokenizer", HERE / "embeddings.safetensors"
INIT_ADAPTER = HERE / "init_adapter.safetensors"  # where training starts from an earlier adapter
NEVER_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

Example = tuple[list[int], list[bool]]
lengths: list[int] = []  # of the examples of the present batch


def render(messages: list[dict[str, Any]], tokenizer: Any, prompt: bool = False) -> list[int]:
    """Token ids of a conversation; of a prompt, up to where the model is to speak."""
    options = {"chat_template": CHAT_TEMPLATE, "tokenize": False, "add_generation_prompt": prompt}
    return tokens(tokenizer.apply_chat_template(messages, **options), tokenizer)


def tokens(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text, without the special tokens that a tokenizer adds unasked."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids] if ADD_BOS else ids


def encode(row: dict[str, Any], tokenizer: Any) -> Example:
    """Token ids of a line, and which of them are in the loss."""
    if "ids" in row:  # written out where a template would not give the same tokens again
        ids, spans = row["ids"], row["learned"]
    elif "text" in row:
        ids = [*tokens(row["text"], tokenizer), tokenizer.eos_token_id]
        spans = [[1, len(ids)]]
    else:
        messages, end = row["messages"], tokenizer.convert_tokens_to_ids(END)
        ids, spans = render(messages, tokenizer), []
        answers = [i for i, one in enumerate(messages) if one["role"] == "assistant" and one.get("weight") != 0]
        for answer in answers[-1:] if LOSS_ON == "completion" else answers:
            start = len(render(messages[:answer], tokenizer, prompt=True))
            spans.append([start, ids.index(end, start) + 1])  # the end is in the loss too, or answers would never stop
        ids = ids[: len(ids) - ids[::-1].index(end)]
        spans = [[1, len(ids)]] if LOSS_ON == "all" else spans
    learned = [any(start <= place < stop for start, stop in spans) for place in range(len(ids))]
    return ids[:MAX_LENGTH], learned[:MAX_LENGTH]


def order(rows: int) -> list[list[int]]:
    """The examples of every optimizer step: each epoch shuffled anew, its last step smaller where it must be."""
    size, steps = BATCH_SIZE * GRADIENT_ACCUMULATION_STEPS, []
    for epoch in range(STEPS):  # more than are needed
        shuffled = list(range(rows))
        random.Random(f"{SEED}/{epoch}").shuffle(shuffled)
        steps += [shuffled[start : start + size] for start in range(0, rows, size)]
        if len(steps) >= STEPS:
            break
    return steps[:STEPS]


def summed_loss(model: Any, batch: list[Example], pad: int) -> torch.Tensor:
    """Negative log-likelihood of all supervised tokens of a batch, in nats."""
    lengths[:] = (len(ids) for ids, _ in batch)
    width = max(lengths)
    ids, mask = torch.full((len(batch), width), pad), torch.zeros(len(batch), width, dtype=torch.long)
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (own, supervised) in enumerate(batch):
        ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
        wanted[row, : len(own)] = torch.tensor(supervised)
    ids, mask, wanted = ids.to(DEVICE), mask.to(DEVICE), wanted[:, 1:].to(DEVICE)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits = logits[:, -width:-1]  # the virtual tokens of a soft prompt stand before the text
    return F.cross_entropy(logits[wanted].float(), ids[:, 1:][wanted], reduction="sum")


def add_noise(module: Any, given: Any, embedded: torch.Tensor) -> torch.Tensor:
    """Embeddings with the noise of NEFTune while training; each example's bound follows from its own length."""
    if not module.training or NEFTUNE_NOISE_ALPHA is None:
        return embedded
    bounds = NEFTUNE_NOISE_ALPHA / (torch.tensor(lengths, device=embedded.device) * embedded.shape[-1]).sqrt()
    return embedded + torch.empty_like(embedded).uniform_(-1, 1) * bounds[:, None, None].to(embedded.dtype)


def targets(examples: list[Example]) -> int:
    """Number of supervised tokens; nothing predicts the first of an example."""
    return sum(sum(supervised[1:]) for _, supervised in examples)


@torch.no_grad()
def mean_loss(model: Any, examples: list[Example], pad: int) -> float:
    """Mean loss per supervised token, without dropout."""
    model.eval()
    batches = (examples[start : start + BATCH_SIZE] for start in range(0, len(examples), BATCH_SIZE))
    total = sum(summed_loss(model, batch, pad).item() for batch in batches)
    model.train()
    return total / targets(examples)


def main() -> None:
    """Read, train, save."""
    name = os.path.expanduser(sys.argv[1] if sys.argv[1:] else MODEL)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER if TOKENIZER.is_dir() else name, revision=REVISION)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    train, evaluation = (
        [encode(json.loads(line), tokenizer) for line in (HERE / file).open(encoding="utf-8")]
        for file in ("train.jsonl", "held_out.jsonl")
    )

    base = AutoModelForCausalLM.from_pretrained(name, revision=REVISION, dtype=DTYPE).to(DEVICE)
    if EMBEDDINGS.is_file():
        own = load_file(EMBEDDINGS)
        base.resize_token_embeddings(max(map(len, own.values())), mean_resizing=False)
        base.load_state_dict(own, strict=False)
    torch.manual_seed(SEED)  # here, because the adapter's first values are random and drawn next
    model = peft.get_peft_model(base, CONFIG)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()  # 16 bits are too few for small steps
    if INIT_ADAPTER.is_file():
        peft.set_peft_model_state_dict(model, load_file(INIT_ADAPTER))
    base.get_input_embeddings().register_forward_hook(add_noise)
    if GRADIENT_CHECKPOINTING:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    # Biases and the weights of norms are not drawn towards 0.
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], NEVER_DECAYED))
    named = [(path, parameter) for path, parameter in model.named_parameters() if parameter.requires_grad]
    some, others = ([one for path, one in named if (path in decayed) is decays] for decays in (True, False))
    groups = [{"params": some, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    wanted = TrainingArguments(str(HERE), optim=OPTIM, learning_rate=LEARNING_RATE, use_cpu=DEVICE == "cpu")
    kind, options = Trainer.get_optimizer_cls_and_kwargs(wanted)
    optimizer = kind(groups, **options)
    schedule = get_scheduler(LR_SCHEDULER_TYPE, optimizer, WARMUP_STEPS, STEPS)

    torch.manual_seed(SEED)
    model.train()
    if evaluation:
        print(json.dumps({"step": 0, "eval_loss": mean_loss(model, evaluation, pad)}), flush=True)
    for number, rows in enumerate(order(len(train)), 1):
        step = [train[row] for row in rows]
        loss = 0.0
        for start in range(0, len(step), BATCH_SIZE):
            # Divided by the tokens of the whole step: its loss does not depend on how it is cut into batches.
            part = summed_loss(model, step[start : start + BATCH_SIZE], pad) / targets(step)
            part.backward()
            loss += part.item()
        if MAX_GRAD_NORM:
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(json.dumps({"step": number, "loss": loss}), flush=True)
    if evaluation:
        print(json.dumps({"step": STEPS, "eval_loss": mean_loss(model, evaluation, pad)}), flush=True)
    model.save_pretrained(HERE / "adapter", save_embedding_layers=EMBEDDINGS.is_file())
    if TOKENIZER.is_dir():
        tokenizer.save_pretrained(HERE / "adapter")


if __name__ == "__main__":
    main()
