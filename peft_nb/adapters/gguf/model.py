"""A plain transformers folder as one GGUF file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from peft_nb.adapters.gguf.architectures import ARCHITECTURES, Architecture, Config, context_length
from peft_nb.adapters.gguf.vocabulary import Vocabulary, vocabulary
from peft_nb.errors import ModelError, nearest
from peft_nb.events import Progress, silent

# The file types that the package gguf writes; llama.cpp's K-quants it only reads.
OUTTYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2}
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # which old releases of transformers saved


def obstacle(config: Config) -> str:
    """Say why llama.cpp cannot compute what a model does, in one line, or nothing.

    Parameters
    ----------
    config : mapping
        The model's config, as ``config.to_dict()`` gives it.

    Returns
    -------
    str
        The reason, and what works instead.
    """
    kind = (config.get("architectures") or ["a model of no known architecture"])[0]
    if kind not in ARCHITECTURES:
        return f"{kind} cannot be written as GGUF yet, but {', '.join(ARCHITECTURES)}; export it as_='merged'"
    if why := next(ARCHITECTURES[kind].unlike(config), ""):
        return f"{kind} with {why} is computed otherwise by llama.cpp; export it as_='merged'"
    return ""


def known(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Give the architecture and the config of a plain model folder; ModelError where llama.cpp computes otherwise."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    if why := obstacle(config):
        raise ModelError(why)
    return ARCHITECTURES[config["architectures"][0]], config


def write_model(
    folder: Path, out: Path, *, outtype: str = "f16", answers: bool = False, progress: Progress | None = None
) -> Path:
    """Write a plain transformers folder as one GGUF file with tokenizer and chat template.

    Parameters
    ----------
    folder : Path
        A folder with ``config.json``, safetensors and a tokenizer.
    out : Path
        The file to write; part of it stays where the disk refuses.
    outtype : {"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"}, default "f16"
        How the matrices are held; a matrix whose rows are no whole blocks is float16, norms and biases are float32.
    answers : bool, default False
        Whether a model without a chat template gets the one that runs on it are trained with, and what ends an answer
        there.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelError
        llama.cpp would compute something else, or make other tokens of a text.
    """
    progress = progress or silent
    if outtype not in OUTTYPES:
        raise ModelError(f"outtype: {outtype!r} is not one of {', '.join(OUTTYPES)}{nearest(outtype, OUTTYPES)}")
    progress(0.0, "reading the tokenizer")
    architecture, config = known(folder)
    words = _words(folder, config, answers)
    metadata = {"general.type": "model", "general.file_type": OUTTYPES[outtype]}
    metadata |= {f"{architecture.name}.{key}": value for key, value in architecture.parameters(config).items()}
    metadata |= {f"{architecture.name}.vocab_size": config["vocab_size"]}
    tensors = list(_tensors(folder, architecture, config, outtype))
    write(out, architecture.name, metadata | words.metadata, tensors, progress)
    progress(1.0, f"wrote {out.name}")
    return out


def _words(folder: Path, config: Config, answers: bool = False) -> Vocabulary:
    """The tokenizer of a plain model folder, with what ends an answer."""
    from transformers import AutoTokenizer, GenerationConfig

    from peft_nb.data.rendering import Renderer

    ends = config.get("eos_token_id")
    if (folder / "generation_config.json").exists():
        ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if answers and not tokenizer.chat_template:
        renderer = Renderer(tokenizer)
        tokenizer.chat_template, ends = renderer.template, [*dict.fromkeys([*ends, renderer.end])]
    return vocabulary(tokenizer, config["vocab_size"], ends)


def notes(folder: Path) -> tuple[str, ...]:
    """Say what the equality of a file and its model is limited to."""
    architecture, config = known(folder)
    found = _words(folder, config).notes
    longest = config.get("max_position_embeddings") or 0
    if architecture.name in ("llama", "phi3") and (window := context_length(config)) < longest:
        found += (f"of texts up to {window:,} tokens, the model's sliding window, which llama.cpp does not apply",)
    return found


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: its name, shape and GGUF type, and what gives its values."""

    name: str
    shape: tuple[int, ...]
    kind: Any
    values: Callable[[], Any]


def write(out: Path, architecture: str, metadata: Mapping[str, Any], tensors: list[Tensor], progress: Progress) -> None:
    """Write a GGUF file, never with more than one tensor in memory."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(out, architecture)
    for key, value in metadata.items():
        writer.add_key_value(key, value, *_kinds(value))
    for one in tensors:
        size = gguf.quant_shape_to_byte_shape(one.shape, one.kind)
        writer.add_tensor_info(one.name, size, numpy.dtype(numpy.uint8), math.prod(size), one.kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, one in enumerate(tensors):
            progress(done / len(tensors), f"writing {out.name}")
            values = one.values().float().contiguous().numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, one.kind).view(numpy.uint8))
    finally:
        writer.close()


def _kinds(value: Any) -> tuple[Any, Any]:
    """GGUF's type of a value, and that of what is in a list; llama.cpp reads whole numbers as unsigned."""
    from gguf import GGUFValueType as Kind

    if isinstance(value, list):
        return Kind.ARRAY, None if not value else Kind.INT32 if isinstance(value[0], int) else _kinds(value[0])[0]
    known = {bool: Kind.BOOL, int: Kind.UINT32, float: Kind.FLOAT32, str: Kind.STRING}
    return known[type(value)], None


@cache
def _names(kind: Any, layers: int) -> Any:
    """The package's map of names, which takes 10 ms to make."""
    import gguf

    return gguf.get_tensor_name_map(kind, layers)


def named(architecture: Architecture, config: Config, name: str) -> str:
    """llama.cpp's name of a weight; ModelError where it has none."""
    import gguf

    kind = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture.name)
    names = _names(kind, config.get("num_hidden_layers") or config["n_layer"])
    bare = name.removeprefix("model.") if name.startswith("model.transformer.") else name
    if not (found := names.get_name(bare, (".weight", ".bias"))):
        raise ModelError(f"llama.cpp has no place for {name}; export it as_='merged'")
    return found


def _tensors(folder: Path, architecture: Architecture, config: Config, outtype: str) -> Iterator[Tensor]:
    """What is written of a folder's weights; matrices are held as told, vectors in float32."""
    import gguf

    wanted = gguf.GGMLQuantizationType[outtype.upper()]
    single, half = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
    for name, values in architecture.extra(config).items():
        yield Tensor(name, tuple(values.shape), single, partial(_same, values))
    tied = config.get("tie_word_embeddings", False)
    for name, shape, read in stored(*sorted(folder.glob("*.safetensors"))):
        if (tied and name == "lm_head.weight") or name.endswith(BUFFERS):
            continue
        if architecture.transposed(name):
            shape = shape[::-1]
        kind = single if len(shape) == 1 else wanted
        if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = half
        yield Tensor(named(architecture, config, name), shape, kind, partial(_values, architecture, config, name, read))


def stored(*files: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Any]]]:
    """Name and shape of every tensor in safetensors, and what reads it in float32."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                yield name, tuple(weights.get_slice(name).get_shape()), partial(_read, file, name)


def _read(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        return weights.get_tensor(name).float()


def _same(values: Any) -> Any:
    return values


def _values(architecture: Architecture, config: Config, name: str, read: Callable[[], Any]) -> Any:
    tensor = architecture.weight(name, architecture.rows(config, name, read()))
    return tensor.T if architecture.transposed(name) else tensor
