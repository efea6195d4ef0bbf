"""GGUF files as plain model folders: float32 safetensors and the tokenizer, free of any mark of quantization.

float32 because it is exact: a block's four bits are multiplied by a 16-bit scale, which bfloat16 would round, and
greedy answers would differ. It also loads fastest, as the file is used as it lies.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.models.cache import prepared
from peft_nb.models.quiet import first_line, quiet
from peft_nb.system.transformers_private import gguf_progress

# Vocabularies whose merges were learned on text split before every digit; transformers splits only at words.
DIGITS_APART = {"command-r", "refact", "smollm", "starcoder"}


def converted(file: Path, progress: Progress) -> Path:
    """Return a plain model folder made from a GGUF file, converting it the first time.

    Parameters
    ----------
    file : Path
        The GGUF file. A changed file is converted anew.
    progress : callable
        Told how far the conversion is.

    Returns
    -------
    Path
        A folder in the user's cache.

    Raises
    ------
    ModelError
        The file cannot be read as a model.
    StoreError
        The cache cannot be written.
    """
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return prepared(f"{file.stem}-{key}", lambda folder: convert(file, folder, progress), progress)


def convert(file: Path, folder: Path, progress: Progress) -> None:
    """Write a GGUF file's model as float32 safetensors, with its tokenizer, and check the result.

    Parameters
    ----------
    file : Path
        The GGUF file.
    folder : Path
        Where to write; it must exist.
    progress : callable
        Told how far the conversion is.

    Raises
    ------
    ModelError
        The file cannot be read as a model, or what was written does not read back equal.
    """
    progress(0.0, f"reading {file.name}")
    with quiet(), _read_once(progress) as reader:
        try:
            pre = reader(str(file)).fields.get("tokenizer.ggml.pre")
            tokenizer = _tokenizer(file, pre and pre.contents())
            progress(0.4, f"unpacking {file.name}")
            model = _model(file)
        except _unreadable() as error:
            raise ModelError(f"cannot read {file.name} as a model: {first_line(error)}") from error
        tokenizer.model_max_length = model.config.max_position_embeddings
        progress(0.9, "saving")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _check(model, tokenizer, folder)
    progress(1.0, f"converted {file.name}")


def _unreadable() -> tuple[type[Exception], ...]:
    """What is raised at a file that is no model; huggingface_hub is imported with it."""
    from huggingface_hub.errors import StrictDataclassError

    return (ImportError, LookupError, OSError, RuntimeError, StrictDataclassError, TypeError, ValueError)


def _tokenizer(file: Path, pre: str | None) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    if pre in DIGITS_APART:
        split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = split
    return tokenizer


def _model(file: Path) -> Any:
    import torch
    import transformers

    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(str(file.parent), **where)
    if blocks := getattr(transformers, "GgufConfig", None):  # newer releases may keep the weights packed
        where["quantization_config"] = blocks(dequantize=True)
    where |= {"config": copy.deepcopy(config), "dtype": torch.float32, "output_loading_info": True}
    model, info = transformers.AutoModelForCausalLM.from_pretrained(str(file.parent), **where)
    if info["missing_keys"]:
        raise ValueError(f"it lacks {min(info['missing_keys'])}")
    # The weights are plain now; these marks would make every later step treat them as quantized.
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(mark, None)
    vars(config).pop("_model_name_or_path", None)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    model.config = config
    return model


def _check(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights, text = again.state_dict(), "The 2 order numbers are 4711 and 12.\n"
    if (
        hasattr(again, "hf_quantizer")
        or hasattr(again.config, "quantization_config")
        or weights.keys() != model.state_dict().keys()
        or not all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
        or AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != tokenizer(text)["input_ids"]
    ):
        raise ModelError(f"the converted model does not read back equal in {folder}; convert it once more")


@contextmanager
def _read_once(progress: Progress) -> Iterator[Any]:
    """Parse the file once, not four times, and name its tensors once, not once a module: 27 s become 12."""
    import gguf

    def shown(tensors: Iterable[Any], **_: object) -> Iterator[Any]:
        tensors = list(tensors)
        for done, tensor in enumerate(tensors):
            progress(0.4 + 0.5 * done / len(tensors), "unpacking the weights")
            yield tensor

    with ExitStack() as stack:
        reader = functools.cache(gguf.GGUFReader)
        stack.enter_context(patch.object(gguf, "GGUFReader", reader))
        stack.enter_context(patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)))
        stack.enter_context(gguf_progress(shown))
        yield reader
