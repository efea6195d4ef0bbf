"""Files of earlier versions, read into what they are today."""

from __future__ import annotations

from pathlib import Path

from peft_nb.data.examples import Example, Examples, gather


def legacy_labelled(path: Path) -> tuple[Examples, Examples]:
    """Read ``labelled.safetensors``, in which version 0.1 kept the examples of a classifier beside its run.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of Examples and Examples
        Training and evaluation examples. The file does not tell their rows: they are numbered as they come.
    """
    import numpy
    from safetensors.numpy import load_file

    tensors = load_file(path)
    ids, labels = (numpy.split(tensors[name], tensors[f"{name}_lengths"].cumsum()[:-1]) for name in ("ids", "labels"))
    examples = gather(
        (number, Example.whole(own.tolist(), tuple(numbers.tolist())))
        for number, (own, numbers) in enumerate(zip(ids, labels, strict=True))
    )
    count = int(tensors["train"][0])
    return examples[:count], examples[count:]
