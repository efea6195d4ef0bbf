"""Speech recognition: a model learns to write down what is said in clips, such as names that it has never heard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem
from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, ModelError, RunError, nearest
from peft_nb.events import Sampled
from peft_nb.metrics import Metric
from peft_nb.models.live import UNCHANGED, Changes
from peft_nb.tasks.base import Facts, Look, Rows, Task

if TYPE_CHECKING:
    import numpy
    import pandas
    import torch
    from peft import PeftModel

    from peft_nb.data.audio.encoding import Reader
    from peft_nb.data.examples import Encoded, Example
    from peft_nb.data.layouts import Layout
    from peft_nb.data.quality.checks import Checked
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.evaluation.agreement import Agreement
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.events import Progress
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.training.speech_objective import SpeechObjective

WATCHED = 4  # clips whose transcripts are shown while they change
MULTILINGUAL = 51_865  # entries of the vocabulary of a Whisper that knows several languages, at least
OF_KEPT = 8  # what a clip costs a micro-batch whose encoder is not trained: an eighth of its positions
PLACES = 50  # of the encoder's, a second
QUIET_S = 5.0  # of the end of a part of a long clip, in which the quietest place is looked for

USAGE = """
import soundfile
from peft import PeftModel
from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

folder, base = "path/to/this/folder", BASE
model = PeftModel.from_pretrained(AutoModelForSpeechSeq2Seq.from_pretrained(base), folder).eval()
extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(TOKENIZER)
samples, rate = soundfile.read("path/to/a/clip.wav")  # 16 kHz, mono
features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features
made = model.generate(input_features=featuresLANGUAGE)
print(tokenizer.batch_decode(made, skip_special_tokens=True)[0].strip())
"""


def _rate(name: str, title: str, what: str, how: str) -> tuple[Metric, Metric]:
    help = f"wrong, missing and extra {what} over those that are said in the evaluation clips, {how}"
    of_base = Metric(f"base_{name}", help=f"{name} of the base model")
    return Metric(name, title, "share", "low", "held-out", help, f"base_{name}", ("rows",)), of_base


NORMALISED = "in lower case without punctuation"


class SpeechRecognition(Task):
    """To write down what is said in clips.

    The facts hold ``features``, how sound is prepared; ``start``, the token that texts begin with; ``language``, what
    is spoken where a row does not tell, empty for a model that knows one; ``most``, the tokens that the model has
    places for; and ``units``, what a clip costs a micro-batch.
    """

    name = "speech-recognition"
    help = "to write down what is said in clips of speech"
    source = "Radford et al., 2022, arXiv:2212.04356"
    accepts = ("audio",)
    wants = "say which columns hold clips and texts, format: audio_text and columns: {audio: …, text: …}"
    generates = False
    learned = "to write down speech"
    instead = "writes down speech and answers no prompts; call predict() on it with clips"
    pipeline_tag = "automatic-speech-recognition"
    auto_class = "AutoModelForSpeechSeq2Seq"
    reader_class = "AutoProcessor"
    peft_type = ""  # PEFT's for sequences asks for tokens, and would not pass features on
    base = "speech"
    model = "whisper-tiny-en"
    proposed = True
    unused: Mapping[str, str] = {
        "score": "transcripts are judged by their word error rate",
        **dict.fromkeys(("system", "neftune_noise_alpha"), "a clip is no text"),
    }
    options: Mapping[str, Any] = {"language": None, "freeze_encoder": True}
    metrics = (
        *_rate("word_error_rate", "word error rate", "words", NORMALISED),
        *_rate("character_error_rate", "character error rate", "characters", NORMALISED),
        *_rate("raw_word_error_rate", "word error rate, raw", "words", "as they are written"),
        *_rate("raw_character_error_rate", "character error rate, raw", "characters", "as they are written"),
        Metric(
            *("regression_word_error_rate", "word error rate, other clips", "share", "low", "regression"),
            help="word_error_rate on the clips that regression names",
            base="base_regression_word_error_rate",
        ),
        Metric("base_regression_word_error_rate", help="regression_word_error_rate of the base model"),
    )
    script = "task: a script is written for generation alone; as adapter and as yaml serve speech-recognition too"

    def problems(self, spec: RunSpec) -> list[str]:
        """What is wrong with its options; as of :meth:`Task.problems`."""
        found = []
        if spec.torch_compile:
            found.append("torch_compile: not tried with speech; turn it off")
        if spec.too_long == "split":
            fix = "cut long recordings into clips with their own texts, and leave too_long out"
            found.append(f"too_long: a clip cannot be split, for nobody knows which words belong to which part; {fix}")
        return found

    # ---- rows

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows without clips; parameters and errors as of :meth:`Task.validate`."""
        if layout.kind not in self.accepts:
            raise DataError(f"{layout.why}: task: {self.name} learns what is said in clips; {self.wants}")

    def check(self, *tables: Any, **how: Any) -> Checked:
        """Look for what is wrong with clips; as of :meth:`Task.check`."""
        from peft_nb.data.audio import checks

        return checks.check(*tables, **how)

    def state(self, rows: Rows, layout: Layout) -> str:
        """Whether files have changed; as of :meth:`Task.state`."""
        from peft_nb.data.audio import encoding

        return encoding.state(rows, layout)

    def groups(self, contents: Sequence[Any], *, progress: Progress | None = None) -> Sequence[int]:
        """Which clips are the same or nearly; as of :meth:`Task.groups`."""
        from peft_nb.data.audio import hearing

        return hearing.groups(contents, progress=progress)

    def limit(self, base: Base, spec: RunSpec, facts: Facts) -> None:
        """Note how clips are prepared for the base, what is spoken, and what a clip costs."""
        config, tokens = base.model.config, base.tokenizer
        several, language = _several(base), (spec.language or "").strip().lower()
        if several and not language:
            raise ModelError(f"language: {spec.model} knows several; say which is spoken, such as language: en")
        if not several and language not in ("", "en"):
            raise ModelError(f"language: {spec.model} knows English alone; leave it out, or take whisper-base")
        language = language if several else ""
        if language and tokens.convert_tokens_to_ids(f"<|{language}|>") in (None, tokens.unk_token_id):
            known = [one.strip("<|>") for one in tokens.get_added_vocab() if len(one) in (6, 7)]
            raise ModelError(
                f"language: {spec.model} has none called {language!r}{nearest(language, known)}; en is one"
            )
        frozen = spec.freeze_encoder is not False
        facts |= {
            "features": base.features.to_dict(),
            "start": config.decoder_start_token_id,
            "language": language,
            "most": config.max_target_positions,
            "units": config.max_source_positions // (OF_KEPT if frozen else 1),
        }

    def encode(
        self,
        rendered: RenderedRows,
        spec: RunSpec,
        facts: Facts,
        *,
        cache: Path | None = None,
        fingerprint: str = "",
        row_name: str = "row",
        progress: Callable[[float, str], None] | None = None,
    ) -> tuple[str, Encoded]:
        """Decode each clip once, and tokenise its text; as of :meth:`Task.encode`."""
        from peft_nb.data.audio import encoding

        reader = _reader(facts, rendered.tokenizer)
        how: dict[str, Any] = {"units": facts["units"], "row_name": row_name, "progress": progress}
        if cache is None:
            return "", encoding.encode(rendered.rows, rendered.layout, reader, **how)
        return encoding.cached(cache, fingerprint, rendered.rows, rendered.layout, reader, **how)

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few clips, kept small, and what is said in them."""
        from peft_nb.data.audio.player import compressed, data_uri
        from peft_nb.data.prompts import spread

        chosen = [layout.spoken(rows[number])[:2] for number in spread(numbers)]
        return [Asked(data_uri(compressed(clip.open())), text) for clip, text in chosen]

    # ---- model and loss

    def objective(
        self,
        model: PeftModel,
        examples: Sequence[Example],
        pad_id: int,
        device: torch.device,
        spec: RunSpec,
        facts: Facts,
        *,
        supported: bool,
    ) -> SpeechObjective:
        """As of :meth:`Task.objective`."""
        from peft_nb.training import speech_objective

        wanted = speech_objective.SpeechObjective(pad_id)
        return speech_objective.choose(model, examples, device, wanted, fast=spec.fast)

    def foreseen(
        self, model: PeftModel, pad_id: int, spec: RunSpec, facts: Facts, *, supported: bool
    ) -> SpeechObjective:
        """As of :meth:`Task.foreseen`."""
        from peft_nb.training import speech_objective

        return speech_objective.foresee(model, speech_objective.SpeechObjective(pad_id), fast=spec.fast)

    # ---- the trained model

    def watched(
        self, model: PeftModel, tokenizer: Any, objective: Any, examples: Sequence[Example], step: int, facts: Facts
    ) -> Iterator[Sampled]:
        """What the model writes down of a few clips of the evaluation set; as of :meth:`Task.watched`."""
        from peft_nb.data.audio.encoding import prompt_of
        from peft_nb.data.prompts import spread
        from peft_nb.evaluation.transcribe import transcribe

        places = spread(range(len(examples)), WATCHED)
        chosen = [examples[place] for place in places]
        written = transcribe(model.eval(), objective, chosen, model.device)
        decode = partial(tokenizer.decode, skip_special_tokens=True)
        for place, one, ids in zip(places, chosen, written, strict=True):
            text = decode(list(one.ids)[len(prompt_of(one)) :]).strip()
            yield Sampled(step, f"eval clip {place}", text, decode(ids).strip())

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained speech model."""
        from peft_nb.evaluation.speech import SpeechEvaluator

        return SpeechEvaluator

    def asked(self, given: Any) -> list[Any]:
        """One clip or several, as of :meth:`Task.asked`: paths, dicts of array and sampling rate, or bytes."""
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
        return list(given) if several else [given]

    def predict(self, model: PeftModel, tokenizer: Any, texts: Sequence[Any], facts: Facts) -> pandas.DataFrame:
        """Write down clips; those longer than the model hears in parts, cut where it is quiet."""
        import pandas

        from peft_nb.data.audio.clip import RATE
        from peft_nb.evaluation.transcribe import transcribe
        from peft_nb.training.speech_objective import SpeechObjective

        reader, sounds = _reader(facts, tokenizer), list(map(_opened, texts))
        parts = [_parts(one, round(reader.seconds * RATE)) for one in sounds]
        examples = [reader.example(part, None, "", facts["units"]) for some in parts for part in some]
        written = iter(transcribe(model.eval(), SpeechObjective(tokenizer.pad_token_id), examples, model.device))
        said = [
            " ".join(tokenizer.decode(next(written), skip_special_tokens=True).strip() for _ in some) for some in parts
        ]
        shown = [
            str(one) if isinstance(one, str | Path) and not str(one).startswith("data:") else f"clip {place}"
            for place, one in enumerate(texts)
        ]
        return pandas.DataFrame({"audio": shown, "text": said, "seconds": [len(one) / RATE for one in sounds]})

    def unlabelled(self, given: Any, tokenizer: Any, facts: Facts) -> list[Example]:
        """As of :meth:`Task.unlabelled`; of a long clip as much as the model hears."""
        from peft_nb.data.audio.clip import RATE

        reader = _reader(facts, tokenizer)
        sounds = [_opened(one)[: round(reader.seconds * RATE)] for one in self.asked(given)]
        return [reader.example(one, None, "", facts["units"]) for one in sounds]

    def look(self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts) -> Look:
        """Look at clips by what the base hears in them and by their length; as of :meth:`Task.look`."""
        import numpy

        from peft_nb.data.audio.encoding import seconds
        from peft_nb.evaluation.features import pooled
        from peft_nb.training.speech_objective import hear

        lengths = [seconds(one.signal) for one in examples]
        places = [max(1, round(one * PLACES)) for one in lengths]
        with model.eval().disable_adapter():
            vectors = pooled(lambda some: hear(model, some, model.device), examples, places)
        return Look("clip", vectors, "length", "s", numpy.array(lengths))

    def predicted(
        self, model: PeftModel, tokenizer: Any, examples: Sequence[Example], facts: Facts
    ) -> pandas.DataFrame:
        """As of :meth:`Task.predicted`."""
        import pandas

        from peft_nb.evaluation.transcribe import transcribe
        from peft_nb.training.speech_objective import SpeechObjective

        written = transcribe(model.eval(), SpeechObjective(tokenizer.pad_token_id), examples, model.device)
        texts = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in written]
        return pandas.DataFrame({"audio": [f"clip {place}" for place in range(len(texts))], "text": texts})

    def said(self, predicted: pandas.DataFrame) -> list[str]:
        """The texts."""
        return list(predicted["text"])

    def reference(
        self, model: PeftModel, tokenizer: Any, prompts: Sequence[Any], spec: RunSpec, facts: Facts, chat: bool
    ) -> list[Any]:
        """Let the model write down clips, and take that for what is right."""
        from peft_nb.data.audio.clip import RATE

        reader, said = _reader(facts, tokenizer), self.predict(model, tokenizer, prompts, facts)["text"]
        sounds = [_opened(one)[: round(reader.seconds * RATE)] for one in prompts]
        return [reader.example(one, text, "", facts["units"]) for one, text in zip(sounds, said, strict=True)]

    def agreement(self, model: Any, other: Any, examples: Sequence[Any], facts: Facts) -> Agreement:
        """Measure how far a model says what another one says, per token of the texts of clips."""
        import torch

        from peft_nb.evaluation import agreement
        from peft_nb.training.speech_objective import features_of

        def says(model: Any, example: Any) -> torch.Tensor:
            inside = model.get_base_model() if hasattr(model, "get_base_model") else model
            ids = torch.tensor([list(example.ids)]).to(inside.device)
            with torch.inference_mode():
                heard = features_of(inside.get_encoder(), [example], inside.device)
                found: torch.Tensor = model(input_features=heard, decoder_input_ids=ids).logits[0]
            return found.float()[: agreement.LONGEST]

        return agreement.agreement(model, other, examples, agreement.by_token, says)

    # ---- files

    def beside(self, model: PeftModel, facts: Facts) -> list[Any]:
        """How sound is prepared."""
        return [_extractor(facts)]

    def usage(
        self, base: str, spec: RunSpec, facts: Facts, tokenizer: Any, *, chat: bool, changes: Changes = UNCHANGED
    ) -> str:
        """Write the Python lines that let a saved adapter write down a clip."""
        language = f', language="{facts["language"]}", task="transcribe"' if facts["language"] else ""
        return USAGE.replace("BASE", base).replace("LANGUAGE", language).replace("TOKENIZER", changes.loaded_from)

    def described(self, facts: Facts) -> Iterator[str]:
        """What is spoken, and how long clips may be."""
        if facts.get("features"):
            yield f"speech in the language {facts['language']}" if facts["language"] else "speech in English"
            yield f"clips of at most {facts['features']['chunk_length']} s at 16 kHz"

    def limits(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Say what was not measured of what the model writes down."""
        if metrics.get("forgetting") is None:
            yield "Not measured: what it has lost of other speech (forgetting); regression names clips for it."
        if metrics.get("word_error_rate") is None:
            yield "Not measured: the word error rate of its transcripts."


def _extractor(facts: Facts) -> Any:
    from transformers import WhisperFeatureExtractor

    told = {
        name: one
        for name, one in facts["features"].items()
        if name not in ("feature_extractor_type", "processor_class")
    }
    return WhisperFeatureExtractor(**told)


def _several(base: Base) -> bool:
    """Whether a model knows several languages."""
    told = getattr(getattr(base.model, "generation_config", None), "is_multilingual", None)
    file = base.folder / "generation_config.json" if base.folder else None
    if told is None and file and file.is_file():  # of shapes alone, which come without it
        told = json.loads(file.read_text(encoding="utf-8")).get("is_multilingual")
    return base.model.config.vocab_size >= MULTILINGUAL if told is None else bool(told)


def _reader(facts: Facts, tokenizer: Any) -> Reader:
    from peft_nb.data.audio.encoding import Reader

    return Reader(_extractor(facts), tokenizer, facts["start"], facts["language"], facts["most"])


def _opened(given: Any) -> numpy.ndarray:
    from peft_nb.data.audio.clip import at_rate, clip

    try:
        return at_rate(clip(given), None).open()
    except RowProblem as problem:
        raise RunError(f"a clip {problem.reason}; {problem.fix}") from None


def _parts(samples: numpy.ndarray, most: int) -> list[numpy.ndarray]:
    """Cut samples into parts of at most so many, each where the last seconds before are quietest."""
    import numpy

    from peft_nb.data.audio.clip import RATE

    found, frame = list[Any](), RATE // 10
    while len(samples) > most:
        last = samples[most - round(min(QUIET_S * RATE, most / 2)) : most]
        loud = [float(numpy.square(last[at : at + frame]).sum()) for at in range(0, len(last) - frame + 1, frame)]
        cut = most - len(last) + (int(numpy.argmin(loud)) if loud else 0) * frame + frame // 2
        found.append(samples[:cut])
        samples = samples[cut:]
    return [*found, samples]
