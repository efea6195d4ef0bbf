"""Clips and their texts as examples: each decoded once, its features kept beside the tokens of its text."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem, media, refusal
from peft_nb.data.audio.clip import RATE
from peft_nb.data.audio.player import compressed, data_uri
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.examples import cached as cached_examples
from peft_nb.data.layouts import Layout
from peft_nb.events import Progress

if TYPE_CHECKING:
    import numpy

Table = Sequence[Mapping[str, Any]]

VERSION = 1  # to be raised whenever the same clips are prepared otherwise
SIZES = struct.Struct("<HHI")  # bins, frames that are kept, and frames in all, before the features
FRAMES = 100  # a second
DOING = "reading clips"


@dataclass(frozen=True)
class Reader:
    """How a clip and its text become what a model takes.

    Attributes
    ----------
    extractor : transformers.WhisperFeatureExtractor
        Makes log-mel features of samples, padded with silence to as long as the model hears.
    tokenizer : transformers.PreTrainedTokenizerBase
        Makes tokens of texts.
    start : int
        The token that a text begins with.
    language : str
        Code of what is spoken where a row does not tell, such as ``en``; empty for a model that knows one language.
    most : int
        Tokens that the model has places for.
    """

    extractor: Any
    tokenizer: Any
    start: int
    language: str
    most: int

    @property
    def seconds(self) -> float:
        """How much of a clip the model hears."""
        return float(self.extractor.n_samples) / RATE

    def prompt(self, language: str = "") -> list[int]:
        """The tokens before a text: its start, its language and what is to be done, and that no times are told."""
        words = ["<|notimestamps|>"]
        if self.language:
            code = (language or self.language).strip().lower().replace("_", "-").partition("-")[0]
            words = [f"<|{code}|>", "<|transcribe|>", *words]
            if self.tokenizer.convert_tokens_to_ids(words[0]) in (None, self.tokenizer.unk_token_id):
                raise RowProblem(f"says the language {language!r}, which the model has no token for", "write en or de")
        return [self.start, *self.tokenizer.convert_tokens_to_ids(words)]

    def features(self, samples: numpy.ndarray) -> bytes:
        """The features of samples, shape ``(samples,)``, without the last frames, which are all the same.

        Behind them comes the sound, made small, to be listened to.
        """
        import numpy

        made = self.extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        made = numpy.ascontiguousarray(made, "<f4")
        differs = (made != made[:, -1:]).any(0).nonzero()[0]
        kept = int(differs[-1]) + 2 if len(differs) else 1
        return SIZES.pack(len(made), kept, made.shape[1]) + made[:, :kept].tobytes() + compressed(samples)

    def example(self, samples: numpy.ndarray, text: str | None, language: str, units: int) -> Example:
        """Make an example.

        Parameters
        ----------
        samples : numpy.ndarray
            Shape ``(samples,)``, float32 at 16 kHz; not longer than the model hears.
        text : str or None
            What is said in them; None for a clip that is asked about.
        language : str
            What the row says of it; empty for the usual one.
        units : int
            What the clip costs a micro-batch, beside its tokens.

        Returns
        -------
        Example
            Its tokens are the prompt, the text with a space before it, as Whisper learned texts, and the end. The
            prompt is given to the model in any case and not learned.
        """
        prompt = self.prompt(language)
        told = [] if text is None else self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
        end = [] if text is None else [self.tokenizer.eos_token_id]
        supervised = bytes(len(prompt)) + b"\x01" * len(told + end)
        return Example(array("i", prompt + told + end), supervised, signal=self.features(samples), units=units)


def features(signal: bytes) -> numpy.ndarray:
    """The features of an example, as the model takes them: shape ``(bins, frames)``, float32."""
    import numpy

    bins, kept, frames = SIZES.unpack_from(signal)
    flat = numpy.frombuffer(signal, "<f4", bins * kept, SIZES.size).reshape(bins, kept)
    return numpy.concatenate([flat, numpy.repeat(flat[:, -1:], frames - kept, 1)], 1)


def seconds(signal: bytes) -> float:
    """How long the clip of an example is, without the silence at its end."""
    return float(SIZES.unpack_from(signal)[1] / FRAMES)


def sound(signal: bytes) -> str:
    """The clip of an example, to listen to, as a data URI."""
    bins, kept, _ = SIZES.unpack_from(signal)
    return data_uri(signal[SIZES.size + 4 * bins * kept :])


def prompt_of(example: Any) -> Any:
    """The tokens of an example before its text."""
    length = bytes(example.supervised).find(1)
    return example.ids[: length if length >= 0 else len(example.ids)]


def encode(
    rows: Table,
    layout: Layout,
    reader: Reader,
    *,
    units: int,
    folder: Path | None = None,
    row_name: str = "row",
    progress: Progress | None = None,
) -> Encoded:
    """Decode the clips of a table and tokenise their texts; those longer than the model hears are dropped.

    Parameters
    ----------
    rows, layout : sequence of mapping, Layout
        The table, and which columns hold clips and texts.
    reader : Reader
        How they become what the model takes.
    units : int
        As for :meth:`Reader.example`.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    Encoded
        One example a row that is not dropped, in the same order.

    Raises
    ------
    DataError
        When clips cannot be read: all of them counted, the first five named.
    StoreError
        When `folder` cannot be written.
    """
    long: list[int] = []

    def make(number: int, row: Mapping[str, Any]) -> Example | None:
        clip, text, language = layout.spoken(row)
        samples = clip.open()
        if len(samples) <= reader.seconds * RATE:
            made = reader.example(samples, text, language, units)
            if len(made.ids) <= reader.most:
                return made
        long.append(number)
        return None

    def produced() -> Iterator[tuple[int, Example]]:
        yield from media.made_of(rows, make, DOING, row_name, progress)
        if long and len(long) == len(rows):
            problem = RowProblem(f"is longer than {reader.seconds:g} s", "cut each into clips with their own texts")
            raise refusal(dict.fromkeys(long, problem), len(rows), row_name)

    def report(examples: int, tokens: int, supervised: int) -> Report:
        limit, told = round(reader.seconds), "log-mel features at 16 kHz"
        how = {"unit": "clip", "limit_unit": "seconds"}
        return Report(len(rows), examples, tokens, supervised, tuple(long), "drop", limit, told, layout.why, **how)  # type: ignore[arg-type]

    return collect(produced(), report, folder)


def cached(
    root: Path, fingerprint: str, rows: Table, layout: Layout, reader: Reader, **how: Any
) -> tuple[str, Encoded]:
    """Find clips that were prepared before, or prepare them and keep them; parameters as for :func:`encode`."""
    kept = {name: one for name, one in how.items() if name != "progress"}
    about = {"features": reader.extractor.to_dict(), "language": reader.language, "most": reader.most}
    settings = {**kept, **about, "version": VERSION, "state": state(rows, layout), "columns": layout.columns}
    return cached_examples(
        root,
        fingerprint,
        reader.tokenizer,
        settings,
        lambda folder: encode(rows, layout, reader, folder=folder, **how),
    )


def state(rows: Table, layout: Layout) -> str:
    """Hash what tells whether the clips of a table have changed, as :func:`.media.state`."""
    return media.state(rows, lambda row: layout.spoken(row)[0])
