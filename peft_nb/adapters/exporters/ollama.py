"""A run as a folder that ``ollama create`` takes: a GGUF file and a Modelfile."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.adapters.exporters.gguf import OPTIONS, check, merged
from peft_nb.adapters.exporters.gguf import obstacle as no_gguf
from peft_nb.adapters.exporters.gguf_file import free
from peft_nb.system.files import atomic_folder
from peft_nb.system.resources import MB

MODEL, MODELFILE, PROOF = "model.gguf", "Modelfile", "proof.json"
# transformers' names of what Ollama's PARAMETER sets; others of a generation config it does not know.
PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repeat_penalty"}
PLAIN = "{{ .Prompt }}"
QUOTES = '"' * 3
# Texts that a template cannot be thought to write by itself.
SYSTEM, ASK, ANSWER, AGAIN = "zsystemz", "zaskz", "zanswerz", "zagainz"


@dataclass(frozen=True)
class Turns:
    """What a chat template writes around the turns of a conversation.

    Attributes
    ----------
    first : str
        Before the first question, where nobody wrote a system prompt.
    system : tuple of str, optional
        Before a system prompt, and between it and the first question; None where the template takes none.
    asked, answered : str
        After a question, up to where its answer begins; after an answer, up to where the next question begins.
    """

    first: str
    system: tuple[str, str] | None
    asked: str
    answered: str

    def go(self) -> str:
        """The same in the language of Ollama's templates."""
        begin = self.first
        if self.system:
            before, between = self.system
            begin = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{between}{{{{ else }}}}{begin}{{{{ end }}}}"
        turns = f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{self.asked}'
        turns += f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{self.answered}{{{{ end }}}}'
        return f"{begin}{{{{ range .Messages }}}}{turns}{{{{ end }}}}"

    def render(self, chat: Sequence[Mapping[str, str]]) -> str:
        """What Ollama makes of a conversation by it."""
        system = [turn["content"] for turn in chat if turn["role"] == "system"]
        begin = f"{self.system[0]}{system[0]}{self.system[1]}" if system and self.system else self.first
        after = {"user": self.asked, "assistant": self.answered}
        return begin + "".join(turn["content"] + after[turn["role"]] for turn in chat if turn["role"] in after)


def obstacle(run: Exportable) -> str:
    """Say why there can be no folder for Ollama, in one line, or nothing."""
    if QUOTES in (run.spec.system or ""):
        return f"system: it holds {QUOTES}, which ends every text of a Modelfile; --as gguf writes the model without it"
    return no_gguf(run)


def turns_of(tokenizer: Any) -> Turns | None:
    """Find what a chat template writes around turns, or nothing where that is no fixed text.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        With a chat template.

    Returns
    -------
    Turns or None
        Without the first bos_token where llama.cpp puts one before every text.
    """
    from peft_nb.adapters.gguf.proof import CHATS

    if not tokenizer.chat_template or "strftime" in str(tokenizer.chat_template):  # it would stay the day of the export
        return None
    ask = [{"role": "user", "content": ASK}]
    more = [*ask, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": AGAIN}]
    try:
        first, asked = _rendered(tokenizer, ask).split(ASK)
        answered = _rendered(tokenizer, more).split(ANSWER)[1].split(AGAIN)[0]
    except Exception:  # a template is somebody's program and can raise anything, or write a turn otherwise
        return None
    try:
        before, rest = _rendered(tokenizer, [{"role": "system", "content": SYSTEM}, *ask]).split(SYSTEM)
        system = before, rest.split(ASK)[0]
    except Exception:
        system = None
    found = Turns(first, system, asked, answered)
    for chat in CHATS:
        said = [{**turn, "content": turn["content"].strip()} for turn in chat]  # Ollama's cannot strip as some do
        if (system or said[0]["role"] != "system") and found.render(said) != _rendered(tokenizer, said):
            return None
    if any(mark in found.go().replace("{{ ", "") for mark in (QUOTES, "{{")):
        return None
    begin = tokenizer.bos_token or ""
    if begin and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        first = first.removeprefix(begin)
        system = (system[0].removeprefix(begin), system[1]) if system else None
    return Turns(first, system, asked, answered)


def _rendered(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text


def modelfile(tokenizer: Any, generation: Mapping[str, Any], system: str | None, chat: bool) -> str:
    """Write a Modelfile for a GGUF file beside it.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's, with its chat template.
    generation : mapping
        What is in ``generation_config.json``.
    system : str, optional
        The system prompt that the run was trained with.
    chat : bool
        Whether the run learned conversations, not plain texts.

    Returns
    -------
    str
        In the language that Ollama documents in ``docs/modelfile.md``.
    """
    turns = turns_of(tokenizer) if chat else None
    template = turns.go() if turns else "" if chat else PLAIN
    lines = [f"FROM ./{MODEL}"]
    if template:
        lines.append(f"TEMPLATE {_quoted(template)}")
    else:
        lines.append("# No TEMPLATE: the model's is more than Ollama's language says. Ollama looks for one like it.")
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    ends = generation.get("eos_token_id")
    stops = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])]
    for number in dict.fromkeys(stops):
        lines.append(f"PARAMETER stop {json.dumps(tokenizer.convert_ids_to_tokens(number), ensure_ascii=False)}")
    lines += [f"PARAMETER {name} {value}" for name, value in _drawing(generation)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f"{QUOTES}{text}{QUOTES}"


def _drawing(generation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """How answers are drawn: as the generation config says, and without a word greedily, as transformers does."""
    if not generation.get("do_sample"):
        yield "temperature", 0
        return
    for ours, theirs in PARAMETERS.items():
        if (value := generation.get(ours)) is not None:
            yield theirs, value


def write(run: Exportable, folder: Path, *, outtype: str = "f16") -> Exported:
    """Write a folder with a GGUF file, its proof, and a Modelfile.

    Parameters
    ----------
    run : Exportable
        A run to which the format ``gguf`` has no objection.
    folder : Path
        Where it shall appear.
    outtype : str, default "f16"
        How matrices are held, as of :func:`peft_nb.adapters.gguf.write_model`.

    Returns
    -------
    Exported
        With the line that gives it to Ollama, and how near llama.cpp's answers are to the run's.

    Raises
    ------
    MergeError, ModelError, RunError, StoreError
        As of the format ``gguf``.
    """
    from transformers import AutoTokenizer

    check(outtype)
    free(folder)
    with run.live() as live:
        chat = live.facts.chat
    with atomic_folder(folder) as staging:

        def seen(made: Path) -> None:
            settings = made / "generation_config.json"
            generation = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
            text = modelfile(AutoTokenizer.from_pretrained(made), generation, run.spec.system, chat)
            (staging / MODELFILE).write_text(text, encoding="utf-8", newline="\n")

        proof = merged(run, staging / MODEL, outtype, seen)
        (staging / PROOF).write_text(proof.written(), encoding="utf-8")
        size = (staging / MODEL).stat().st_size / MB
    letters = [letter if letter.isascii() and letter.isalnum() else "-" for letter in (run.spec.name or run.id).lower()]
    name = "".join(letters).strip("-") or run.id
    told = f"{run.id} is exported to {folder}: {outtype}, {size:,.1f} MB; {proof.told}; not run in Ollama"
    lines = (told, f"ollama create {name} -f {shlex.quote(str(folder / MODELFILE))}", f"ollama run {name}")
    return Exported(folder, "\n".join(lines), proof.table)


EXPORTER = Exporter("ollama", "a folder that ollama create takes", "-ollama", write, obstacle, OPTIONS)
