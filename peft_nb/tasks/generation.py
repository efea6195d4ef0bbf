"""Generation: a model learns to write answers, or texts as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from peft_nb.documents import prompt
from peft_nb.errors import DataError
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.tasks.base import Facts, Rows, Task

if TYPE_CHECKING:
    from peft_nb.data.examples import Encoded
    from peft_nb.data.layouts import Layout
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.spec import RunSpec


class Generation(Task):
    """To write texts; everything that :class:`Task` leaves to its subclasses is that of this one."""

    name = "generation"
    help = "to write texts: answers to prompts, or texts as they are"
    source = "Radford et al., 2018"
    options: Mapping[str, Any] = {"documents": None, "golden": None}

    def problems(self, spec: RunSpec) -> list[str]:
        """Refuse to learn what stands in documents; parameters and result as of :meth:`Task.problems`."""
        if spec.documents and spec.loss_on == "all":
            return ["loss_on: all would learn the documents by heart; with documents, leave it out"]
        return []

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows that have labels and no answers; parameters and errors as of :meth:`Task.validate`."""
        if layout.kind == "labelled":
            raise DataError(f"{layout.why}: these rows have labels and no answers to learn; set task: classification")

    def inspect(self, rows: Rows, layout: Layout) -> Facts:
        """Refuse preferences, and say which task learns them and how their answers are learned alone."""
        if layout.kind in ("preference", "rated"):
            rows_are, task = ("pairs", "dpo") if layout.kind == "preference" else ("rated answers", "kto")
            fix = ", or ".join(filter(None, [f"set task: {task}", layout.alone(rows[0])]))
            raise DataError(f"{layout.why}: these rows are {rows_are}; {fix}")
        if layout.kind == "prompt":
            fix = f"set task: grpo and a reward to learn from the model's own answers, or {layout.alone(rows[0])}"
            raise DataError(f"{layout.why}: these rows are prompts without answers; {fix}")
        return {}

    def encoding(self) -> ModuleType:
        """The module whose ``encode`` and ``cached`` make examples of its rows."""
        from peft_nb.data import encoding

        return encoding

    def encode(
        self,
        rendered: RenderedRows,
        spec: RunSpec,
        facts: Facts,
        *,
        cache: Path | None = None,
        fingerprint: str = "",
        row_name: str = "row",
        progress: Callable[[float, str], None] | None = None,
    ) -> tuple[str, Encoded]:
        """Choose the tokens that are trained on, and cut what is too long; as of :meth:`Task.encode`."""
        settings: dict[str, Any] = {"max_length": spec.max_length, "too_long": spec.too_long}
        told: dict[str, Any] = {"row_name": row_name, "progress": progress}
        if cache is None:
            return "", self.encoding().encode(rendered, **settings, **told)
        found: tuple[str, Encoded] = self.encoding().cached(cache, fingerprint, rendered, **settings, **told)
        return found

    def conversations(
        self, rows: Rows, layout: Layout, numbers: Sequence[int], spec: RunSpec, most: int
    ) -> list[dict[str, Any]]:
        """Some rows as conversations up to their last answer, that answer, and what else could be chosen."""
        from peft_nb.data import prompts
        from peft_nb.data.rendering import prepare
        from peft_nb.documents.raft import laid

        if layout.plain:
            return []
        found = []
        for number in prompts.spread(numbers, most):
            *before, answer = prepare(layout.messages(rows[number]), spec.system, generation=False)
            if before and answer["content"].strip():
                chosen: dict[str, Any] = {"options": options} if (options := layout.options(rows[number])) else {}
                chosen |= {"documents": documents} if (documents := laid(rows[number])) else {}
                found.append({"messages": before, "reference": answer["content"], **chosen})
        return found

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that ask a saved adapter as it was trained."""
        from peft_nb.data.rendering import Renderer, unwrap

        renderer, end = Renderer(tokenizer), "tokenizer.eos_token_id"
        found = prompt.block(["What a document says.", "What another one says."]) if spec.documents else ""
        messages = [{"role": "user", "content": f"{found}What can you do?"}]
        if spec.system:
            messages.insert(0, {"role": "system", "content": spec.system})
        if chat and not renderer.template:
            options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
            inputs = f"messages = {_quoted(messages)}\ninputs = tokenizer.apply_chat_template(messages, {options})"
        else:
            text = unwrap(renderer.chats([messages], generation=True)[0])[0] if chat else "It begins"
            inputs = f'inputs = tokenizer({_quoted(text)}, return_tensors="pt")  # written as in training'
        if chat and renderer.end != tokenizer.eos_token_id:
            end = f"tokenizer.convert_tokens_to_ids({_quoted(renderer.end_text)})"
        loaded, resized = "AutoModelForCausalLM.from_pretrained(base)", ""
        if changes.rows:
            loaded, resized = "model", f"model = {loaded}\n{changes.resized('model')}\n"
        return f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, base = "path/to/this/folder", {base}
{resized}model = PeftModel.from_pretrained({loaded}, folder).eval()
tokenizer = AutoTokenizer.from_pretrained({changes.loaded_from})
{inputs}
made = model.generate(**inputs, max_new_tokens=128, do_sample=False, eos_token_id={end})
print(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""

    def limits(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Say what was not measured of what the model writes."""
        if metrics.get("forgetting") is None:
            yield "Not measured: what of the base's other abilities it has lost (forgetting)."
        if metrics.get("score") is None:
            yield "A loss says how likely the expected answers are to it, not whether its own answers are right."


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
