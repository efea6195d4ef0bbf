"""A run's adapter as a PEFT folder for other programs: changed, read back by PEFT, and held to what it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from peft_nb.adapters.exporters.base import Exportable, Live
from peft_nb.system.files import atomic_folder
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.evaluation.agreement import Agreement


@dataclass(frozen=True)
class Draft:
    """A folder that is being written.

    Attributes
    ----------
    run : Exportable
        Whose adapter.
    live : Live
        Its model.
    folder : Path
        The adapter, to be changed in place.
    saved : Path
        The adapter as it was saved.
    """

    run: Exportable
    live: Live
    folder: Path
    saved: Path

    def read_back(self) -> tuple[PeftModel, PeftModel]:
        """The changed adapter and the saved one, both on one copy of the base in float32."""
        from peft_nb.adapters.read_back import read_back

        changed, saved = read_back(self.live.model, self.folder, self.saved)
        return changed, saved

    def near(self, model: PeftModel, other: PeftModel) -> Agreement:
        """How far a model does what another one does, on the run's texts."""
        return TASKS[self.run.spec.task].agreement(model, other, self.live.examples, self.live.facts.task)

    def add(self, title: str, text: str) -> None:
        """Add a section to the README."""
        readme = self.folder / "README.md"
        told = readme.read_text(encoding="utf-8")
        readme.write_text(f"{told}\n## {title}\n\n{text}\n", encoding="utf-8")


@contextmanager
def draft(run: Exportable, folder: Path) -> Iterator[Draft]:
    """Save an adapter, to be changed inside the ``with``; the folder appears whole at its end, or not at all."""
    with run.live() as live, atomic_folder(folder) as staging, TemporaryDirectory() as place:
        saved = run.save(Path(place) / "adapter")
        shutil.copytree(saved, staging, dirs_exist_ok=True)
        yield Draft(run, live, staging, saved)
