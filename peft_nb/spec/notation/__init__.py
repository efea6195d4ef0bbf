"""The written forms of a spec: YAML, notebook cell, flags and help, generated from the fields that are passed.

YAML scalars and the values of flags stay text here, because only the field knows whether ``2e-4`` is a number
and ``on`` a name. Nothing here prints or exits: what cannot be read raises an error of one line.
"""

from peft_nb.spec.notation.cell import CELL, Cell, check_out, parse_cell, read_cell, write_cell
from peft_nb.spec.notation.file import parse_runs, parse_train, read_run, read_runs, split_runs
from peft_nb.spec.notation.flags import flags, parse_flags, read_value, split, write_flags, write_value
from peft_nb.spec.notation.help import help_text
from peft_nb.spec.notation.yaml import read_yaml, write_yaml

__all__ = [
    "CELL",
    "Cell",
    "check_out",
    "flags",
    "help_text",
    "parse_cell",
    "parse_flags",
    "parse_runs",
    "parse_train",
    "read_cell",
    "read_run",
    "read_runs",
    "read_value",
    "read_yaml",
    "split",
    "split_runs",
    "write_cell",
    "write_flags",
    "write_value",
    "write_yaml",
]
