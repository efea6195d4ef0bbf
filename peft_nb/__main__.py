"""``python -m peft_nb train spec.yaml``: a run without a notebook; ``export``, ``serve`` and ``watch``."""

from __future__ import annotations

import os
import sys

from peft_nb.errors import CommandError, PeftNbError, nearest
from peft_nb.methods import complete
from peft_nb.runs import init_adapter, pipeline, rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.place import FIELDS, HERE, Place
from peft_nb.spec.sweep import SweepSpec, described
from peft_nb.system import resources
from peft_nb.ui.train import train

USAGE = """usage: python -m peft_nb train [spec.yaml] [flags]
       python -m peft_nb train spec.yaml --on local:2
       python -m peft_nb train spec.yaml --on ray
       torchrun --nproc_per_node 2 -m peft_nb train spec.yaml
       python -m peft_nb export RUN [flags of %peft export]
       python -m peft_nb serve RUN [RUN ...] [flags of %peft serve]
       python -m peft_nb watch RUN ROWS [flags of %peft watch]

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
        print(USAGE + notation.help_text([*RunSpec.describe(), *SweepSpec.describe(), *notation.CELL]))
        return 0
    try:
        if argv[0] in ("export", "serve", "watch"):
            from peft_nb.magics import export, serve, watch

            return {"export": export, "serve": serve, "watch": watch}[argv[0]].from_words(argv[1:])
        if argv[0] != "train":
            known = ["train", "export", "serve", "watch", "help"]
            raise CommandError(f"no command {argv[0]!r}{nearest(argv[0], known)}")
        fields = notation.parse_train(argv[1:], [*RunSpec.describe(), *SweepSpec.describe(), *FIELDS])
        place, several = Place.taken(fields), resources.processes() > 1
        if place.on != HERE and several:
            raise CommandError(f"--on {place.on}: torchrun has started the processes already; leave one of them out")
        if varied := described(fields):
            from peft_nb.runs.sweeps import search
            from peft_nb.ui import sweep

            if several:
                raise CommandError("sweep: runs its trials in one process; start it without torchrun")
            sweep.watch(search.begin(varied, place=place))
            return 0
        spec = RunSpec(**fields)
        if resources.rank() == 0:
            train(spec, **place.said)
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
