"""Settings of training, of what makes a trained network smaller, and of the budget: sections of a recipe."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.network_settings import Count, CountOrZero
from tinyscene.train.settings import Section

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decibels = Annotated[float, Field(ge=0, le=40)]


def _split_name(value: object) -> object:
    """YAML reads the split name 5 as a number."""
    return str(value) if type(value) is int else value


SplitName = Annotated[str, BeforeValidator(_split_name)]


class Augment(Section):
    """Augmentation of training batches. Zero turns one off."""

    roll_seconds: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest circular shift of a clip in time, in seconds, in either direction."""
    freq_mask: CountOrZero = 48
    """Largest number of neighbouring mel bands that are masked."""
    time_mask: CountOrZero = 0
    """Largest number of neighbouring frames that are masked."""
    mixstyle_p: Fraction = 0.4
    """Share of batches with Freq-MixStyle. F. Schmid et al., "CP-JKU Submission to DCASE22", 2022."""
    mixstyle_alpha: Positive = 0.3
    """Parameter of the beta distribution of Freq-MixStyle's mixing weights."""
    dir_folder: str | None = None
    """Folder of impulse responses of recording devices (audio files); null turns the augmentation off. T. Morocutti et
    al., "Device-Robust Acoustic Scene Classification via Impulse Response Augmentation", EUSIPCO 2023."""
    dir_p: Fraction = 0.0
    """Share of clips that are convolved with an impulse response."""
    dir_devices: tuple[str, ...] = ("a",)
    """Recording devices whose clips may be convolved; an empty list means all."""
    gain_db: Decibels = 0.0
    """Largest change of a clip's level, in dB, in either direction."""
    filter_db: Decibels = 0.0
    """Largest gain of a random frequency response, in dB, in either direction. H. Nam et al., "FilterAugment: An
    Acoustic Environmental Data Augmentation Method", ICASSP 2022 (linear type)."""
    f_max_jitter: Annotated[float, Field(ge=0, le=8000)] = 0.0
    """Range in Hz, around features.f_max, from which the highest frequency of each batch is drawn; for Kaldi features.
    K. Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022."""
    mixup_alpha: NotNegative = 0.0
    """Parameter of the beta distribution of mixup's mixing weights. H. Zhang et al., "mixup: Beyond Empirical Risk
    Minimization", ICLR 2018."""


class Train(Section):
    """The training loop: the optimizer, its schedule, and what is saved."""

    epochs: Count = 150
    """Number of passes over the training list."""
    batch_size: Count = 256
    """Clips for each step of the optimizer, over all processes."""
    micro_batch: Count | None = None
    """Clips for each forward pass; gradients of the passes are summed. null: 32 on a CPU, the whole batch on a GPU."""
    lr: Positive = 0.005
    """Peak learning rate."""
    warmup: Fraction = 0.0245
    """Share of all steps in which the learning rate rises; the default is the baseline's 2,000 of the 81,900 steps of
    TAU's split 100."""
    warmup_steps: CountOrZero | None = None
    """Steps in which the learning rate rises, at most half of all, in place of `warmup`; null: the share."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate moves. cosine: step by step, a linear rise, then half a cosine to zero. linear: epoch by
    epoch, a rise as in S. Laine et al., "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, then the peak, a
    linear fall, and the last rate to the end, as CP-JKU train teachers."""
    fall_start: Fraction = 0.0
    """With `schedule: linear`, the share of all epochs after which the fall begins."""
    fall_length: Fraction = 1.0
    """With `schedule: linear`, the share of all epochs that the fall takes."""
    last_lr: Fraction = 0.0
    """With `schedule: linear`, the last learning rate, as a share of the peak."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw shrinks the weights apart from the gradient; adam adds their decay to the gradient."""
    weight_decay: NotNegative = 1e-4
    """Weight decay of the optimizer."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay, for each step, of the moving average of the weights that is saved; 0 saves the weights themselves."""
    balance: Fraction = 0.0
    """How far rare groups of scene and recording device are sampled more often: 0 draws every clip once in each epoch,
    1 draws every group equally often."""
    outliers: str | None = None
    """Folder of recordings of none of the classes, of which each batch takes as many clips as it has with labels; the
    network is asked for equal probabilities on them, so that a bundle's decision rule can tell strangers. D. Hendrycks
    et al., "Deep Anomaly Detection with Outlier Exposure", ICLR 2019. Not with a teacher."""
    outlier_weight: Positive = 0.5
    """Weight of the cross-entropy on the clips of `outliers`; that on the others has 1."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on a GPU that has it, otherwise float32."""
    evaluate_every: CountOrZero = 0
    """Epochs between evaluations on the test list; 0 turns them off."""
    tensorboard: bool = False
    """Whether metrics are also written for TensorBoard, to the run's folder `tensorboard`."""

    def fine_tuning(self, epochs: int, lr: float, batch_size: int) -> Self:
        """The settings for fine-tuning a trained network: a short warm-up, no moving average, no evaluations."""
        changes = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "evaluate_every": 0, "ema": 0.0}
        changes |= {"warmup_steps": None, "schedule": "cosine", "optimizer": "adamw"}
        return self.model_copy(update=changes)


class Distill(Section):
    """Knowledge distillation from a teacher: from its logits in a file, or from a run that is asked at each step.

    G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. The defaults are those of F. Schmid et al.,
    "Distilling the Knowledge of Transformers and CNNs with CP-Mobile", DCASE 2023, as is the loss: the divergence is
    the mean over clips and classes, times the square of the temperature.
    """

    logits: str | None = None
    """File of teacher logits, written by `tinyscene logits`."""
    online: str | None = None
    """Run of a teacher that is asked at each step, in place of `logits`: it hears the same rolled, convolved and mixed
    waveforms as the student, at its own sample rate, so that mixup mixes waveforms and not log-mels. Levels, frequency
    responses, masks and Freq-MixStyle are the student's alone. L. Beyer et al., "Knowledge Distillation: A Good Teacher
    Is Patient and Consistent", CVPR 2022."""
    transfer: str | None = None
    """Folder of recordings without labels, of which each batch takes as many clips as it has with labels; they have the
    divergence from the teacher of `online` alone. `rest` stands for the recordings of the whole training list that the
    split leaves out. Neither is allowed by the rules of DCASE 2024 Task 1."""
    temperature: Positive = 2.0
    """Temperature that divides the logits of teacher and student."""
    label_weight: Fraction = 0.02
    """Weight of the cross-entropy with the labels; the divergence from the teacher has the rest."""
    mask: Fraction = 0.0
    """Least probability that the teacher must give a clip's label, for the clip as recorded and at temperature 1; a
    label with less has no cross-entropy, in mixtures either, and its clip the divergence alone. 0 keeps all labels.
    After E. Fonseca et al., "Addressing Missing Labels in Large-Scale Sound Event Recognition Using a Teacher-Student
    Framework with Loss Masking", IEEE Signal Processing Letters 27, 2020."""
    required: bool = False
    """Whether the recipe is refused without a teacher."""

    @model_validator(mode="after")
    def _is_one_teacher(self) -> Self:
        if self.logits and self.online:
            raise ValueError("distill.logits and distill.online each name a teacher: name one of them")
        if self.transfer and not self.online:
            raise ValueError("distill.transfer: its clips are in no file of logits; name a teacher with distill.online")
        return self

    @property
    def has_teacher(self) -> bool:
        return self.logits is not None or self.online is not None

    def require(self, recipe: str) -> None:
        """Raise InputError where a teacher is required, or is to judge labels, and none is named."""
        if self.mask and not self.has_teacher:
            raise InputError(
                "distill.mask: no teacher is named to judge the labels: name one with distill.logits or distill.online"
            )
        if self.required and not self.has_teacher:
            raise InputError(
                f"recipe {recipe} learns from teachers, and distill.logits names none: write their logits with "
                "`tinyscene logits` and add --set distill.logits=FILE, or --set distill.online=RUN for one teacher "
                "that is asked at each step, or take student-scratch, which has no teacher"
            )


class Consistency(Section):
    """Consistency training on clips without labels. Not allowed by the rules of DCASE 2024 Task 1.

    Q. Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020.
    """

    weight: NotNegative = 0.0
    """Weight of the consistency loss; 0 turns it off."""
    split: SplitName = "100"
    """Split from whose training list the unlabelled clips are drawn; clips of the labelled list are left out."""
    confidence: Fraction = 0.0
    """Smallest probability of the most likely scene for a prediction to be used as a target."""


class Budget(Section):
    """Limits on the size of a network; the defaults are those of DCASE 2024 Task 1."""

    max_bytes: Count = 128_000
    """Largest size of the parameters, in bytes."""
    max_macs: Count = 30_000_000
    """Largest number of multiply-accumulate operations for one second of audio."""
    precision: Literal["float32", "float16", "int8"] = "float16"
    """Number format in which the bytes of the parameters are counted."""


class Prune(Section):
    """Structured pruning of a trained network's channels, in steps with fine-tuning after each.

    B. Han et al., "Data-Efficient Low-Complexity Acoustic Scene Classification via Distilling and Progressive
    Pruning", 2024.
    """

    steps: Count = 10
    """Number of pruning steps from the full network to the target size."""
    epochs: Count = 5
    """Epochs of fine-tuning after each step except the last."""
    final_epochs: Count = 30
    """Epochs of fine-tuning after the last step."""
    lr: Positive = 1e-3
    """Peak learning rate of each fine-tuning."""
    batch_size: Count = 32
    """Clips for each step of the optimizer while fine-tuning."""
    distill: Fraction = 1.0
    """Weight of the divergence from the unpruned network; the recipe's own loss has the rest."""


class Adapt(Section):
    """Fine-tuning of a trained network for single recording devices.

    The defaults, except for the batch size, are those of the DCASE 2025 Task 1 baseline: F. Schmid et al.,
    "Low-Complexity Acoustic Scene Classification with Device Information in the DCASE 2025 Challenge", 2025.
    """

    epochs: Count = 50
    """Epochs of fine-tuning for each recording device."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    batch_size: Count = 32
    """Clips for each step of the optimizer."""
    least_clips: Count = 30
    """Smallest number of a recording device's training clips for it to get a network of its own."""


class Probe(Section):
    """A linear classifier on a teacher's embedding, for `tinyscene teach --probe`."""

    decay: Positive = 0.01
    """Weight of half the squared weights beside the mean cross-entropy; more keeps the answers softer."""
    steps: Count = 300
    """Largest number of steps of L-BFGS."""


class Quantize(Section):
    """Quantization of a trained network to int8: calibration, and fine-tuning where `--qat` asks for it."""

    calibration: Literal["minmax", "percentile", "mse"] = "percentile"
    """How the range of each activation is chosen: its extremes, a percentile, or the least squared error."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    """Percentile of the activations that the range covers, with `calibration: percentile`."""
    clips: Annotated[int, Field(ge=1, le=4096)] = 256
    """Number of training clips used for calibration."""
    equalize: bool = True
    """Whether the ranges of channels are equalized across layers before quantization. M. Nagel et al., "Data-Free
    Quantization Through Weight Equalization and Bias Correction", ICCV 2019."""
    bias_correction: bool = True
    """Whether biases are corrected for the mean error of quantization (same source)."""
    rounding: bool = True
    """Whether weights are rounded for the least error of a layer's output, with bias correction and without `--qat`.
    E. Frantar et al., "GPTQ", ICLR 2023."""
    epochs: Count = 8
    """Epochs of fine-tuning."""
    lr: Positive = 5e-5
    """Peak learning rate of fine-tuning."""
    batch_size: Count = 32
    """Clips for each step of the optimizer while fine-tuning."""
    distill: Fraction = 1.0
    """Weight of the divergence from the float network while fine-tuning; the recipe's own loss has the rest."""
