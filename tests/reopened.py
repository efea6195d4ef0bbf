"""A notebook with every kind of panel, and what is left of each where no kernel runs."""

from __future__ import annotations

from pathlib import Path

# Each cell that shows something, and words of its page.
CELLS = {
    "%load_ext peft_nb\n"
    "tickets = [{'question': f'How much is {n} and {n}?', 'answer': f'It is {2 * n}.'} for n in range(20)]\n"
    "birds = [{'text': f'{what} number {n}', 'label': what} for n in range(10) for what in ('owl', 'gull')]\n"
    "handbook = {'birds': 'The owl sees at night.', 'sums': 'Add what there is.'}": [],
    "%peft": ["%peft data birds", "%peft compare"],
    "%peft data tickets --model {base}": ["20 rows", "question, answer", "Next:"],
    "%peft index handbook --model {encoder}": ["index handbook: 2 documents, 2 chunks"],
    "%peft panel": ["%%peft lora --data birds --out run"],
    "%%peft lora --data tickets --out run\nmodel: {base}\nmax_steps: 100\neval_steps: 50\njudge: off": [
        "finished", "eval loss", "expected", "%peft save run",
    ],
    "%peft runs": ["finished", "created"],
    "%peft compare run base": ["eval loss", "How much is"],
    "%peft chat run": ["chat"],
    "%%peft lora --data birds --out owls\nmodel: {encoder}\ntask: classification\nmax_steps: 2\njudge: off": [
        "finished", "macro-F1",
    ],
    "%peft chat owls": ["gives labels"],
    "%peft methods {base}": ["lora", "trainable parameters"],
    "%peft estimate --data tickets --model {base} --max-steps 2": ["memory", "steps"],
}  # fmt: skip
WRONG = ("Error displaying widget", "model not found", "so far", "Traceback", "<peft_nb", "Error", "importing PyTorch")


def cells_of(base: Path, encoder: Path) -> list[str]:
    """The cells, with the models of the tests in them."""
    return [cell.replace("{base}", str(base)).replace("{encoder}", str(encoder)) for cell in CELLS]
