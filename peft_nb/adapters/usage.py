"""The lines that use a saved adapter without peft_nb, or with no more of it than its tuner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peft_nb.data.rendering import Renderer, unwrap
from peft_nb.methods import REGISTRY
from peft_nb.spec import RunSpec

GENERATION = """
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, base = "path/to/this/folder", BASE
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
INPUTS
made = model.generate(**inputs, max_new_tokens=128, do_sample=False, eos_token_id=END)
print(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""
CHAT = """\
messages = MESSAGES
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""
TEXT = """\
inputs = tokenizer(TEXT, return_tensors="pt")  # written as in training"""

HEAD = """
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, base, texts = "path/to/this/folder", BASE, ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
model = PeftModel.from_pretrained(model, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
tokenizer.pad_token_id = config.pad_token_id
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
logits = model(**tokens).logits
print(LABELS)
"""
# The head is no class of transformers, so its two parts are put together here.
MEAN = """
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoTokenizer

folder, base, texts = "path/to/this/folder", BASE, ["a text", "another, somewhat longer one"]
config = AutoConfig.from_pretrained(folder)  # with the names of the classes
encoder = AutoModel.from_pretrained(base)
encoder.pooler = None  # not used: the hidden states of a text are averaged
classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
parts = torch.nn.ModuleDict({"encoder": encoder, "classifier": classifier})
parts = PeftModel.from_pretrained(parts, folder).eval().get_base_model()
tokenizer = AutoTokenizer.from_pretrained(base)
tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
hidden, seen = parts["encoder"](**tokens).last_hidden_state, tokens["attention_mask"][..., None]
logits = parts["classifier"]((hidden * seen).sum(1) / seen.sum(1))
print(LABELS)
"""


def usage(base: str, spec: RunSpec, metrics: Mapping[str, Any], tokenizer: Any) -> str:
    """Write the lines.

    Parameters
    ----------
    base : str
        What ``from_pretrained`` finds the base by.
    spec : RunSpec
        The run's settings.
    metrics : mapping
        What the run measured.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.

    Returns
    -------
    str
        Python.
    """
    tuner, _, _ = REGISTRY[spec.method].config_class().__module__.rpartition(".")
    ours = f"import {tuner}.model  # makes PEFT know this kind of adapter\n" if tuner.startswith("peft_nb.") else ""
    lines = _generation(spec, metrics, tokenizer) if spec.task == "generation" else _classification(metrics)
    return ours + lines.replace("BASE", _quoted(base)).strip()


def _generation(spec: RunSpec, metrics: Mapping[str, Any], tokenizer: Any) -> str:
    renderer, end = Renderer(tokenizer), "tokenizer.eos_token_id"
    messages = [{"role": "user", "content": "What can you do?"}]
    if spec.system:
        messages.insert(0, {"role": "system", "content": spec.system})
    if metrics.get("layout") == "text":
        inputs = TEXT.replace("TEXT", _quoted("It begins"))
    elif renderer.template:
        inputs = TEXT.replace("TEXT", _quoted(unwrap(renderer.chats([messages], generation=True)[0])[0]))
    else:
        inputs = CHAT.replace("MESSAGES", _quoted(messages))
    if metrics.get("layout") != "text" and renderer.end != tokenizer.eos_token_id:
        end = f"tokenizer.convert_tokens_to_ids({_quoted(renderer.end_text)})"
    return GENERATION.replace("END", end).replace("INPUTS", inputs)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _classification(metrics: Mapping[str, Any]) -> str:
    labels = "[config.id2label[best] for best in logits.argmax(-1).tolist()]"
    if metrics["multi_label"]:
        labels = "[[config.id2label[n] for n, on in enumerate(row) if on] for row in logits.sigmoid() >= 0.5]"
    lines = MEAN if metrics["pooling"] == "mean" else HEAD
    return lines.replace("LENGTH", str(metrics["max_tokens"])).replace("LABELS", labels)
