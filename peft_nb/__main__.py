"""``python -m peft_nb train spec.yaml``: the same run without a notebook, on one process or several; and ``serve``."""

from __future__ import annotations

import os
import sys

from peft_nb.errors import CommandError, PeftNbError, nearest
from peft_nb.methods import complete
from peft_nb.runs import init_adapter, pipeline, rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.spec import RunSpec, notation
from peft_nb.system import resources
from peft_nb.ui.train import train

USAGE = """usage: python -m peft_nb train [spec.yaml] [flags]
       torchrun --nproc_per_node 2 -m peft_nb train spec.yaml
       python -m peft_nb serve RUN [RUN ...] [flags of %peft serve]

"""


def main(argv: list[str]) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str
        The words after ``python -m peft_nb``.

    Returns
    -------
    int
        0, or 1 after one line on standard error that says what is wrong.
    """
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(USAGE + notation.help_text([*RunSpec.describe(), *notation.CELL]))
        return 0
    try:
        if argv[0] == "serve":
            from peft_nb.magics.serve import from_words

            return from_words(argv[1:])
        if argv[0] != "train":
            raise CommandError(f"no command {argv[0]!r}{nearest(argv[0], ['train', 'serve', 'help'])}")
        spec = RunSpec.from_argv(argv[1:])
        if resources.rank() == 0:
            train(spec)
        else:
            inputs = Inputs()
            spec, table, facts = rows.read(spec, inputs)  # process 0 shows and stores what all do together
            pipeline.train(Context(complete(init_adapter.taken_over(spec)), inputs, facts=facts), table)
    except PeftNbError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
