"""Settings of the network families: the section `model` of a recipe."""

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
)

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.families import registered_families, registered_family
from tinyscene.train.settings import Section

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=8, le=2048)]  # of a transformer's tokens
Depth = Annotated[int, Field(ge=1, le=48)]  # blocks of a transformer
Heads = Annotated[int, Field(ge=1, le=32)]
BaseChannels = Annotated[int, Field(ge=8, le=512)]
Blocks = Annotated[int, Field(ge=1, le=16)]
STEM = ((3, 2), (3, 2))  # kernel and stride over time of CP-Mobile's first two convolutions
LOW_PASS = (3, 1)  # the same of the filter before a stride
Stride = tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]]  # mel, frame


class Channels(Section):
    """Channel counts of a pruned CP-Mobile network, which replace those derived from its other settings."""

    stem: Count
    """Output channels of the first convolution."""
    stages: tuple[Count, ...]
    """Output channels of each stage."""
    expanded: tuple[Count, ...]
    """Channels between the expansion and the projection of each block."""


class Network(Section):
    """Settings of a network of any family."""

    def finished(self) -> Self:
        """The settings of the network that is saved at the end of training."""
        return self


class CPMobileModel(Network):
    """CP-Mobile, the family of networks that can be deployed.

    F. Schmid et al., "Distilling the Knowledge of Transformers and CNNs with CP-Mobile", DCASE 2023.
    """

    family: Literal["cp_mobile"] = "cp_mobile"
    """Network family, which decides the other keys."""
    base_channels: BaseChannels = 32
    """Output channels of the stem and of the first stage, rounded to a multiple of 8."""
    channels_multiplier: Annotated[float, Field(ge=0.5, le=4)] = 1.8
    """Factor by which the channels grow from each stage to the next."""
    expansion_rate: Annotated[float, Field(ge=0.5, le=8)] = 2.1
    """Channels inside a block, as a multiple of its input channels."""
    n_blocks: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=6)] = (3, 2, 1)
    """Number of blocks in each stage."""
    strides: dict[str, Stride] = {"b2": (1, 1), "b3": (1, 2), "b4": (2, 1)}  # noqa: RUF012 - pydantic copies it
    """Stride (mel, frame) of single blocks, which are named b1, b2, ... in order; the others have stride 1."""
    time_padding: Literal["same", "none"] = "same"
    """Padding over time. same: a zero at either end of what a 3 x 3 window reads. none: no padding, and shortcuts lose
    the frames that windows do, so that a column of the last layer is the same in every clip that holds its frames; a
    clip must then be as long as whole columns need."""
    time_kernels: dict[str, Literal[1, 3]] = {}  # noqa: RUF012
    """Frames that the windows of single blocks span, 1 or 3, by block name; the others have 3."""
    antialias: bool = False
    """Whether a low-pass, (1, 2, 1) / 4 along the axes of the stride, comes before each stride, so that features
    change less where a window is shifted. It costs two means of neighbours for each value that is strided over, which
    are no MACs. R. Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019."""
    branches: bool = False
    """Whether convolutions have parallel branches during training, folded into one convolution afterwards.
    X. Ding et al., "RepVGG: Making VGG-Style ConvNets Great Again", CVPR 2021."""
    channels: Channels | None = None
    """Channel counts after pruning; null derives them from the other keys."""

    def finished(self) -> Self:
        return self.model_copy(update={"branches": False})

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What says nothing new is left out, so that recipes without these keys are what they were before."""
        left_out = {"time_padding": "same", "time_kernels": {}, "antialias": False}
        return {key: value for key, value in serialize(self).items() if key not in left_out or value != left_out[key]}

    @property
    def time_windows(self) -> list[tuple[int, int]]:
        """Kernel and stride over time of each layer that spans frames or skips them, in order."""
        blocks = [f"b{index + 1}" for index in range(sum(self.n_blocks))]
        layers = [*STEM, *((self.time_kernels.get(name, 3), self.strides.get(name, (1, 1))[1]) for name in blocks)]
        filtered = [(LOW_PASS, layer) if self.antialias and layer[1] > 1 else (layer,) for layer in layers]
        return [window for windows in filtered for window in windows]

    @property
    def column_frames(self) -> int:
        """Frames from one column of the last layer to the next."""
        return math.prod(stride for _, stride in self.time_windows)

    @property
    def receptive_frames(self) -> int:
        """Frames that a column of the last layer hears."""
        heard, step = 1, 1
        for kernel, stride in self.time_windows:
            heard, step = heard + (kernel - 1) * step, step * stride
        return heard

    def require_whole_columns(self, features: FrontEnd) -> None:
        """Raise ValueError where, without padding over time, a clip has frames that no column hears."""
        if self.time_padding == "same":
            return
        if features.edges != "none":
            raise ValueError(
                "model.time_padding: without padding, frames must lie in the clip: set features.edges: none"
            )
        heard, step, frames = self.receptive_frames, self.column_frames, features.frames
        if frames < heard or (frames - heard) % step:
            fitting = [heard + step * max(0, (frames - heard) // step + more) for more in (0, 1)]
            seconds = [f"{features.seconds_of(count):.8g}" for count in dict.fromkeys(fitting)]
            raise ValueError(
                f"features.clip_seconds: a clip of {features.clip_seconds:g} s has {frames} frames, and "
                f"model.time_padding: none needs {heard} and whole columns of {step}: {' or '.join(seconds)} s fit"
            )


class TFSepNetModel(Network):
    """TF-SepNet, which convolves half of the channels along mel and half along time. Without residual normalization it
    can be quantized.

    Y. Cai et al., "TF-SepNet: An Efficient 1D Kernel Design in CNNs for Low-Complexity Acoustic Scene Classification",
    ICASSP 2024.
    """

    family: Literal["tf_sepnet"]
    """Network family."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=4)] = 64
    """Channels of the first blocks, a multiple of 4; the stem has twice as many, the last blocks 2.5 times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the means that a block adds that are zeroed in training."""
    residual_norm: bool = True
    """Whether residual normalization stands after the stem and each group of blocks, as published."""


class CPResNetModel(Network):
    """CP-ResNet, a teacher: a ResNet with a restricted receptive field.

    K. Koutini et al., "Receptive Field Regularization Techniques for Audio Classification and Tagging with Deep
    Convolutional Neural Networks", IEEE/ACM TASLP 29, 2021.
    """

    family: Literal["cp_resnet"]
    """Network family."""
    base_channels: BaseChannels = 128
    """Output channels of the first convolution."""
    rho: Annotated[int, Field(ge=0, le=22)] = 7
    """Receptive field: number of convolutions after the first block that have a 3 x 3 kernel; the others have 1 x 1."""
    pools: dict[str, Stride] = {"b1": (2, 2), "b2": (2, 2), "b4": (2, 2)}  # noqa: RUF012
    """Size (mel, frame) of the max-pooling after single blocks, by block name; b0 is before the first."""
    blocks: tuple[Blocks, Blocks, Blocks] = (4, 4, 4)
    """Number of blocks in each stage."""
    groups: tuple[Count, Count, Count] = (1, 1, 1)
    """Groups of the convolutions of each stage."""
    cut: tuple[CountOrZero, CountOrZero, CountOrZero] = (0, 0, 0)
    """Channels by which each stage is narrower than one, two and four times `base_channels`."""
    mel: Literal["htk", "kaldi"] = "htk"
    """Features: those of the networks that can be deployed (htk), or those of the published teacher, with pre-emphasis
    and normalised (kaldi)."""


class PasstModel(Network):
    """PaSST, a teacher: a spectrogram transformer trained with patches left out.

    K. Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022.
    """

    family: Literal["passt"]
    """Network family."""
    width: Width = 768
    """Size of a token."""
    depth: Depth = 12
    """Number of transformer blocks."""
    heads: Heads = 12
    """Number of attention heads; it must divide the width."""
    stride: Annotated[int, Field(ge=1, le=16)] = 10
    """Stride of the 16 x 16 patches, in mel bands and frames."""
    patchout_mel: CountOrZero = 0
    """Rows of patches left out of each training example."""
    patchout_frame: CountOrZero = 0
    """Columns of patches left out of each training example."""
    patchout: CountOrZero = 0
    """Single patches left out of each training example."""


class AstModel(Network):
    """AST, a teacher: a spectrogram transformer that is fine-tuned from published weights.

    Y. Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021.
    """

    family: Literal["ast"]
    """Network family."""
    width: Width = 768
    """Size of a token."""
    depth: Depth = 12
    """Number of transformer blocks."""
    heads: Heads = 12
    """Number of attention heads; it must divide the width."""
    tuning: Literal["full", "lora"] = "full"
    """What is trained: all weights (full), or low-rank additions to the attention weights (lora), which are merged when
    training ends. E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022."""
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Rank of LoRA's additions."""

    def finished(self) -> Self:
        return self.model_copy(update={"tuning": "full"})


class EfficientAtModel(Network):
    """EfficientAT's MobileNet, a teacher: MobileNetV3 with squeeze-and-excitation, pretrained on AudioSet.

    F. Schmid et al., "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation", ICASSP 2023.
    """

    family: Literal["efficientat"]
    """Network family."""
    width: Annotated[float, Field(ge=0.1, le=4)] = 1.0
    """Factor of all channel counts; weights are published for 0.1, 0.2, 0.4, 0.5, 1, 2, 3 and 4."""
    head: Literal["mlp", "linear"] = "mlp"
    """Classifier on the embedding: with a hidden layer, as published, or linear."""
    tuning: Literal["full", "head"] = "full"
    """What is trained: all weights (full), or the classifier alone (head), with the rest as it was."""

    def finished(self) -> Self:
        return self.model_copy(update={"tuning": "full"})


PROBED = ("model.head=linear", "model.tuning=head")  # what a linear probe sets in a recipe


class RegisteredModel(Network):
    """Settings of a family that another package registers (`train/families.py`)."""

    family: str
    """Network family: the name of the entry point."""


FAMILIES = ("cp_mobile", "cp_resnet", "passt", "ast", "efficientat", "tf_sepnet")
REGISTERED = "registered"  # tag of all others


def families() -> tuple[str, ...]:
    """The families that a recipe may name: ours and those that installed packages register."""
    return (*FAMILIES, *(name for name in registered_families() if name not in FAMILIES))


def _family(model: object) -> object:
    name = model.get("family", "cp_mobile") if isinstance(model, dict) else getattr(model, "family", None)
    return REGISTERED if name not in FAMILIES and name in registered_families() else name


def _registered(model: object) -> object:
    """Plain data as the settings of the family that it names."""
    if not isinstance(model, dict):
        return model
    try:
        settings = registered_family(model["family"]).settings
        if not issubclass(settings, RegisteredModel):
            raise ValueError(f"model.family: the settings of {model['family']} are no RegisteredModel")
        return settings.model_validate_json(json.dumps(model))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("model", *fault["loc"])))
        raise ValueError(f"{key}: {fault['msg']} (given: {fault['input']!r})") from None
    except InputError as error:
        raise ValueError(str(error)) from None


Model = Annotated[
    Annotated[CPMobileModel, Tag("cp_mobile")]
    | Annotated[CPResNetModel, Tag("cp_resnet")]
    | Annotated[PasstModel, Tag("passt")]
    | Annotated[AstModel, Tag("ast")]
    | Annotated[EfficientAtModel, Tag("efficientat")]
    | Annotated[TFSepNetModel, Tag("tf_sepnet")]
    | Annotated[SerializeAsAny[RegisteredModel], BeforeValidator(_registered), Tag(REGISTERED)],
    Discriminator(_family),
]
