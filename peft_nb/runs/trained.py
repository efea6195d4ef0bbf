"""What can be done with a run that has learned: its model asked, written and merged."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from peft_nb.adapters import exporters
from peft_nb.data.prompts import Prompt
from peft_nb.errors import RunError
from peft_nb.events import ACTIVE
from peft_nb.runs.recorded import Recorded

if TYPE_CHECKING:
    import pandas
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from peft_nb.adapters.exporters import Side
    from peft_nb.adapters.merge import Merged
    from peft_nb.models.load import Base

_answering = threading.RLock()  # a model without its adapter for the one must not answer the other


class Trained(Recorded):
    """A run with its adapter, in memory or on disk."""

    @property
    def adapter_dir(self) -> Path:
        """Folder of the adapter, which plain PEFT can load.

        Raises
        ------
        RunError
            If no adapter has been written yet.
        """
        folder, status = self.folder / "adapter", self.status
        if not folder.is_dir():
            mend = "wait() for it" if status in ACTIVE else "resume() it"
            raise RunError(f"run {self.id} is {status} and has written no adapter yet; {mend} first")
        return folder

    @property
    def model(self) -> PeftModel:
        """The base with the trained adapter; loaded from disk when the run was.

        Raises
        ------
        RunError
            If the run is still training, or never got as far as an adapter.
        """
        if self._at_work:
            raise RunError(f"run {self.id} is {self.status}; call wait() or stop() before using its model")
        if self._job.adapted is None:
            self._job.load_adapter(self.adapter_dir)
        return self._job.adapted

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self.model and self._job.tokenizer

    @overload
    def generate(self, prompt: str, *, adapter: bool = True, **options: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], *, adapter: bool = True, **options: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[Prompt], *, adapter: bool = True, **options: Any) -> str | list[str]:
        """Answer one prompt or many.

        Parameters
        ----------
        prompt : str or sequence
            What to answer, rendered exactly as in training: a text, or several, each a text or the messages of a
            conversation. While one call is answered another waits.
        adapter : bool
            ``False`` asks the bare base.
        **options
            ``max_new_tokens`` (default 128), ``temperature`` (default 0: always the likeliest token) and ``seed``;
            ``listen``, a function that gets the list of answers so far after every token, and ends them by
            returning True.

        Returns
        -------
        str or list of str
            One answer a prompt.

        Raises
        ------
        RunError
            If the run is still training, or learned to classify.
        """
        if self._job.rows.classifies:
            raise RunError(f"run {self.id} gives texts labels and writes none; call predict() on it")
        from contextlib import nullcontext

        from peft_nb.evaluation.generate import generate

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        with _answering, nullcontext() if adapter else self.model.disable_adapter():
            answers = generate(
                self.model, self._job.tokenizer, prompts, chat=self._job.chat, system=self.spec.system, **options
            )
        return answers[0] if isinstance(prompt, str) else answers

    def predict(self, texts: str | Sequence[str]) -> pandas.DataFrame:
        """Say which class each text has; for a run with ``task: classification``.

        Parameters
        ----------
        texts : str or sequence of str
            What to classify, cut as in training where it is too long.

        Returns
        -------
        pandas.DataFrame
            One row a text: ``text``, ``label``, ``probability``, and a column with the probability of each class.
            Where a text can have several classes, ``label`` and ``probability`` list those with 0.5 or more.

        Raises
        ------
        RunError
            If the run learned to write texts, or something is not a text.
        """
        if not self._job.rows.classifies:
            raise RunError(f"run {self.id} writes texts and knows no classes; call generate() on it")
        found = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [type(one).__name__ for one in found if not isinstance(one, str)]:
            raise RunError(f"predict() takes texts, and found a {wrong[0]} among them; turn it into text or drop it")
        from peft_nb.evaluation.classification import predict

        model, job = self.model, self._job
        return predict(model, job.tokenizer, found, job.rows.classes, job.metrics["max_tokens"])

    def save(self, path: str | Path) -> Path:
        """Write the adapter as a plain PEFT folder with safetensors, config, model card and curves.

        Parameters
        ----------
        path : str or Path
            The folder to make.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        StoreError
            If the disk refuses; nothing half-written stays and the run keeps its model.
        """
        from peft_nb.adapters.save import save

        model, job = self.model, self._job
        return save(
            model,
            Path(path).expanduser(),
            self.spec,
            self.metrics,
            tokenizer=job.tokenizer,
            history=job.curve(),
            data=job.data_told(),
        )

    def export(self, path: str | Path, as_: str = "script", namespace: Mapping[str, Any] | None = None) -> Path:
        """Write the run in a form that others can use.

        Parameters
        ----------
        path : str or Path
            The folder to make; for ``yaml`` the file.
        as_ : {"script", "yaml", "adapter", "merged"}, default "script"
            A folder with ``train.py``, which trains the same adapter with PyTorch, transformers and PEFT alone, and
            the data that it reads; the spec; the adapter, as :meth:`save` does; or the base with the adapter in it.
            Other packages may add formats.
        namespace : mapping, optional
            The notebook's variables, where a script's rows may have to be found again; without the rows, their token
            ids are written.

        Returns
        -------
        Path
            What was written; of a script its ``train.py``.

        Raises
        ------
        RunError
            If the run cannot be written so.
        StoreError
            If the disk refuses, or something else would be lost; nothing half-written stays.
        """

        def examples() -> tuple[Base, Side, Side]:
            if self._at_work:
                raise RunError(f"run {self.id} is {self.status}; call wait() or stop() before exporting it")
            return self._job.exported(namespace or {})

        found = exporters.Exportable(self.id, self.spec, self.metrics, self.save, self.merge, examples)
        return exporters.export(found, Path(path).expanduser(), as_)

    def merge(
        self, path: str | Path, *, dtype: str | None = None, max_kl: float = 0.005, prompts: Sequence[str] | None = None
    ) -> Merged:
        """Write a plain model with the adapter folded into its weights, once it is proven to do the same.

        Parameters
        ----------
        path : str or Path
            The folder to make: safetensors, configuration, tokenizer and README.
        dtype : {"float32", "bfloat16", "float16"}, optional
            Number format of the weights; by default the one the run computed in.
        max_kl : float
            Largest mean KL divergence from the live model, in nats per token (of a classifier, per text).
        prompts : sequence of str, optional
            What to compare answers to; by default held-out rows, else training rows, else built-in prompts.

        Returns
        -------
        Merged
            Shows itself as a table.

        Raises
        ------
        MergeError
            If no candidate is that near to the live model; nothing is kept.
        MethodError
            If what the method trains cannot be folded into weights.
        StoreError
            If the folder holds something, or the disk refuses; nothing half-written stays.
        """
        from peft_nb.adapters import merge

        job, metrics, folder = self._job, self.metrics, Path(path).expanduser()
        dtype = dtype or metrics.get("dtype") or "float32"
        merge.check(self.spec, metrics, folder, dtype, max_kl)
        examples, judged_on = job.judged_by(self.model, prompts)
        options: dict[str, Any] = {"dtype": dtype, "max_kl": max_kl}
        return merge.merge(
            self.model, job.tokenizer, folder, job._source(), self.spec, metrics, examples, judged_on, **options
        )
