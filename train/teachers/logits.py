"""Teachers' logits, made once and kept in a file that a student is trained with.

    tinyscene logits TEACHER... --data DATA --split 5 --out LOGITS.safetensors [--average bayesian] [--responses FOLDER]

A teacher is a run of any family, or a file of logits made elsewhere. A file is a safetensors file with a tensor
`logits` (clip, class) or (view, clip, class) and, in its header, JSON lists `clips` (the paths of the recordings;
with `#N` for clip N of one that has several) and `labels`; `split` names the list that the teacher was trained on,
`clip_seconds` is the length of the clips, one second where it is missing. docs/training.md, "A teacher from elsewhere",
shows the ten lines that write one. A `.pt` dictionary from recording to logits, or with the lists `clips` and `labels`
beside a tensor `logits`, is read with `weights_only`.

Several teachers become one ensemble, the mean of their logits, or the Bayesian average of their probabilities:
each weighed by its likelihood on the clips, by J. A. Hoeting et al., "Bayesian Model Averaging", 1999, with the
likelihood of a mean clip, since clips of one recording are no independent evidence.

A view is the clip as a microphone's impulse response colours it (`augment.dir_folder`): a student that hears the
response is asked for what the teachers say to the same. The first view is the clip as it is.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256, write_whole
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.frontend.log_mel import ONE_SECOND
from tinyscene.train.data import augment
from tinyscene.train.data.cache import Clips, in_other_form
from tinyscene.train.data.datasets import SCENES, Dataset
from tinyscene.train.data.features import waveform
from tinyscene.train.models import features_of
from tinyscene.train.runs.pickled import read_pickled
from tinyscene.train.runs.run import Card, load_model, load_tensors, model_path, to_bytes
from tinyscene.train.runs.weights import FLOATS

BATCH = 32  # clips
AVERAGES = ("mean", "bayesian")


@dataclass(frozen=True)
class Logits:
    """A teacher's answers."""

    values: Tensor  # (view, clip, class)
    clips: tuple[str, ...]
    labels: tuple[str, ...]
    views: tuple[str, ...]  # names of impulse responses; the first, "", is the clip as it is
    split: str | None
    source: str
    clip_seconds: float = ONE_SECOND

    def require_split(self, split: str) -> None:
        """Raise InputError where the teacher was trained on another list, which may hold the student's test clips."""
        if self.split not in (None, split):
            raise InputError(f"{self.source}: is of split {self.split}; a student of split {split} may not see that")

    def of(self, names: list[str], labels: tuple[str, ...], clip_seconds: float = ONE_SECOND) -> Tensor:
        """Logits (view, clip, class) of these clips.

        Raises InputError if one is missing, or the labels or the length of clips are others.
        """
        require_same_length(self.source, self.clip_seconds, clip_seconds, "the clips asked for")
        if self.labels != labels:
            raise InputError(f"{self.source}: is for {', '.join(self.labels)}; the dataset has {', '.join(labels)}")
        rows = {name: row for row, name in enumerate(self.clips)}
        if missing := [name for name in names if name not in rows]:
            raise InputError(f"{self.source}: has no logits for {missing[0]} and {len(missing) - 1} other clips")
        return self.values[:, [rows[name] for name in names]]


def make_logits(
    teachers: list[Path],
    dataset: Dataset,
    clips: Clips,
    split: str,
    out: Path,
    average: str = "mean",
    responses: Path | None = None,
) -> Path:
    """Write an ensemble's logits for the training clips of a split, of the length that the first teacher hears.

    `clips` may be of any sample rate and length.

    Raises InputError: a teacher cannot be used, knows other labels, or was trained on another split.
    """
    if (seconds := _clip_seconds(teachers[0])) != clips.clip_seconds:
        clips = in_other_form(clips, dataset, clips.sample_rate, seconds)
    indices = clips.select(dataset.split(split)[0])
    names, truth = clips.names(indices), torch.from_numpy(clips.label[indices])
    answers, views = [], ("",)
    for teacher in teachers:
        is_file = _is_file(teacher)
        if is_file and responses:
            raise InputError(f"{teacher}: a file of logits cannot answer to --responses; name runs only")
        answer = read_logits(teacher) if is_file else _ask(teacher, dataset, clips, split, responses)
        answer.require_split(split)
        answers.append(answer.of(names, clips.labels, seconds))
        views = answer.views
    if len({len(values) for values in answers}) > 1:
        raise InputError(f"{teachers[0]} and the others hold answers to different views")
    header: dict[str, Any] = {
        "clips": names,
        "labels": clips.labels,
        "views": views,
        "split": split,
        "clip_seconds": str(clips.clip_seconds),
        "average": average,
        "teachers": [named(teacher) for teacher in teachers],
        "data_hash": clips.data_hash,
        "made_by": provenance(),
    }
    ensemble = _average(torch.stack(answers), truth, average)
    content = {key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()}
    write_whole(out, to_bytes({"logits": ensemble.contiguous()}, content))
    return out


def _average(logits: Tensor, truth: Tensor, average: str) -> Tensor:
    """One teacher of several: (teacher, view, clip, class) and classes (clip,) -> (view, clip, class)."""
    if average == "mean":
        return logits.mean(0)
    log_probability = logits.log_softmax(-1)
    likelihood = log_probability[:, 0, torch.arange(len(truth)), truth].mean(1)  # (teacher,)
    weight = likelihood.log_softmax(0)[:, None, None, None]
    return (log_probability + weight).logsumexp(0)


@torch.inference_mode()
def _ask(run: Path, dataset: Dataset, clips: Clips, split: str, responses: Path | None) -> Logits:
    """A run's answers to the training clips of a split, at its own sample rate and by its own features."""
    network, card = load_model(run)
    recipe = card.parsed_recipe
    torch_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = features_of(recipe).to(torch_device)
    network.to(torch_device)
    rate, seconds = recipe.features.sample_rate, recipe.features.clip_seconds
    require_same_length(run, seconds, clips.clip_seconds, "those of the first teacher")
    if clips.sample_rate != rate:
        clips = in_other_form(clips, dataset, rate, seconds)
    require_same_lists(run, card, dataset, clips, split)
    indices = clips.select(dataset.split(split)[0])
    names = augment.response_paths(responses) if responses else []
    spectra = augment.load_responses(responses, recipe.features).to(torch_device) if responses else None
    views = []
    with progress("asking", len(indices) * (1 + len(names))) as advance:
        for view in range(1 + len(names)):
            parts = []
            for start in range(0, len(indices), BATCH):
                pcm = torch.from_numpy(clips.pcm[indices[start : start + BATCH]]).to(torch_device)
                signal = waveform(pcm)  # (batch, samples)
                if view and spectra is not None:
                    signal = augment.convolve(
                        signal, spectra, torch.full((len(signal),), view - 1, device=torch_device)
                    )
                parts.append(network(features(signal)).float().cpu())  # (batch, class)
                advance(len(pcm))
            views.append(torch.cat(parts))
    return Logits(
        values=torch.stack(views),
        clips=tuple(clips.names(indices)),
        labels=card.labels,
        views=("", *(path.name for path in names)),
        split=card.split if card.split in dataset.splits else None,  # of another dataset, or imported: none
        source=str(run),
        clip_seconds=seconds,
    )


def require_same_length(teacher: Path | str, seconds: float, others: float, whose: str) -> None:
    """Raise InputError for a teacher of clips of another length. `whose` says whose clips the others are."""
    if seconds != others:
        raise InputError(
            f"{teacher}: is for clips of {seconds:g} s, {whose} have {others:g} s; a teacher and its student must have "
            "the same features.clip_seconds"
        )


def require_same_lists(run: Path, card: Card, dataset: Dataset, clips: Clips, split: str) -> None:
    """Raise InputError for a teacher of this dataset that was trained on other lists. `clips` are at its own rate."""
    if card.data_hash == clips.data_hash and card.split_hash != dataset.split_hash(split):
        raise InputError(
            f"{run}: was trained on split {card.split} of other lists than these; name the same with --splits and "
            "--split, or a student would be taught what its own lists leave out"
        )


def read_logits(path: Path) -> Logits:
    """A file of logits, ours or another's. Raises InputError if it is none, or holds values that are not finite."""
    if path.suffix == ".pt":
        content = _unfold(path, read_pickled(path))
        values = content.pop("logits")
    else:
        tensors, header = load_tensors(path)
        if set(tensors) != {"logits"}:
            raise InputError(f"{path}: a file of logits holds one tensor, `logits`; this holds {sorted(tensors)[:3]}")
        values = tensors["logits"]
        try:
            lists = ("clips", "labels", "views")
            content = {key: json.loads(value) if key in lists else value for key, value in header.items()}
        except (ValueError, RecursionError):
            raise InputError(f"{path}: clips, labels and views in its header must be JSON lists") from None
    for key in ("clips", "labels"):
        if not _is_names(content.get(key)):
            raise InputError(f"{path}: lacks the list `{key}`, or it is not one of names")
    clips, labels, views = content["clips"], content["labels"], content.get("views", [""])
    if not _is_names(views):
        raise InputError(f"{path}: `views` must be a list of names")
    if not isinstance(content.get("split"), str | None):
        raise InputError(f"{path}: `split` must be the name of a split")
    if not isinstance(values, Tensor) or values.dtype not in FLOATS or values.is_meta or values.ndim not in (2, 3):
        raise InputError(f"{path}: logits must be a tensor of floats, (clip, class) or (view, clip, class)")
    values = values.float() if values.ndim == 3 else values.float()[None]
    if tuple(values.shape) != (len(views), len(clips), len(labels)):
        expected = f"{len(views)} views, {len(clips)} clips and {len(labels)} labels"
        raise InputError(f"{path}: logits of shape {list(values.shape)} do not fit {expected}")
    if len(set(clips)) < len(clips):
        raise InputError(f"{path}: names a clip twice")
    if not values.isfinite().all():
        raise InputError(f"{path}: holds NaN or infinite logits")
    return Logits(
        values, tuple(clips), tuple(labels), tuple(views), content.get("split"), str(path), _seconds(content, path)
    )


def _seconds(content: dict[str, Any], path: Path) -> float:
    """The length of the clips."""
    try:
        return float(content.get("clip_seconds", ONE_SECOND))
    except (TypeError, ValueError):
        raise InputError(f"{path}: `clip_seconds` must be a number") from None


def _unfold(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """A `.pt` dictionary as the header and tensor of ours; one from recording to logits is of TAU's labels."""
    if "logits" in content:
        return dict(content)
    if not content or not all(isinstance(value, Tensor) and value.ndim == 1 for value in content.values()):
        raise InputError(f"{path}: must map each recording to its logits, or hold logits, clips and labels")
    if not all(value.dtype in FLOATS for value in content.values()):
        raise InputError(f"{path}: its logits must be tensors of floats")
    if len({len(value) for value in content.values()}) > 1:
        raise InputError(f"{path}: its logits are not all of one length")
    return {"logits": torch.stack(list(content.values())), "clips": list(content), "labels": list(SCENES)}


def _is_file(teacher: Path) -> bool:
    """Whether a teacher is a file of logits rather than a run, or a run's model."""
    return teacher.suffix == ".pt" or (teacher.suffix == ".safetensors" and "logits" in load_tensors(teacher)[0])


def _clip_seconds(teacher: Path) -> float:
    """The length of the clips that a teacher hears."""
    if _is_file(teacher):
        return read_logits(teacher).clip_seconds
    return load_model(teacher)[1].parsed_recipe.features.clip_seconds


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(value, str) for value in value)


def named(teacher: Path) -> str:
    """A teacher as it is remembered: its name and the hash of its weights or logits."""
    return f"{teacher} sha256:{sha256(model_path(teacher) if teacher.is_dir() else teacher)}"
