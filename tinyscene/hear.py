"""HEAR 2021: embeddings by the benchmark's common interface, of students, teachers, bundles and exported models.

    model = tinyscene.hear.load_model("runs/first")
    scenes = get_scene_embeddings(audio, model)                       # (sound, channels)
    embeddings, timestamps = get_timestamp_embeddings(audio, model)   # (sound, time, channels), (sound, time) in ms

`heareval tinyscene.hear --model runs/first` evaluates a model. The embedding is what the network's classifier takes,
averaged over places. A network hears clips of its own length, one second unless its recipe says otherwise: a sound's
embedding is the mean over its clips, and that of a point in time is of the clip around it.

Source: the API at https://hearbenchmark.com/hear-api.html.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import PCM_SCALE, FrontEnd
from tinyscene.deploy.live.classifier import SceneClassifier
from tinyscene.interface.names import find_model, packaged_models
from tinyscene.models import load
from tinyscene.train.models import features_of
from tinyscene.train.runs.run import load_model as load_network

HOP_SECONDS = 0.05  # between timestamps, the most that the benchmark advises
BATCH = 32  # clips


class HearModel(nn.Module):
    """A model as the benchmark takes it: audio clips (batch, samples) within +-1 -> embeddings (batch, channels)."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.sample_rate: int = front_end.sample_rate  # Hz
        self.clip_samples: int = front_end.clip_samples
        self.scene_embedding_size = self.timestamp_embedding_size = 0  # channels; known once it has run

    def measure(self) -> None:
        """Set the sizes of the embeddings."""
        self.scene_embedding_size = self.timestamp_embedding_size = self(torch.zeros(1, self.clip_samples)).shape[1]


class NetworkModel(HearModel):
    """The float network of a run, on any torch device."""

    def __init__(self, network: nn.Module, features: nn.Module, front_end: FrontEnd) -> None:
        super().__init__(front_end)
        self.network, self.features = network.eval(), features
        self._classifier = classifier_of(network)
        self.measure()

    def forward(self, clips: Tensor) -> Tensor:
        taken: list[Tensor] = []
        hook = self._classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            self.network(self.features(clips))
        finally:
            hook.remove()
        return taken[0].flatten(2).mean(2) if taken[0].dim() > 2 else taken[0]  # (batch, channels)


class ClassifierModel(HearModel):
    """A bundle, in integers, or an exported model. Both compute on the CPU."""

    def __init__(self, scene: SceneClassifier) -> None:
        super().__init__(scene.front_end)
        self.scene = scene
        self.measure()

    def forward(self, clips: Tensor) -> Tensor:
        scaled = np.rint(clips.cpu().numpy() * np.float32(PCM_SCALE))
        pcm = np.clip(scaled, -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)  # (batch, samples)
        return torch.from_numpy(self.scene.embeddings(pcm)).to(clips.device)


def classifier_of(network: nn.Module) -> nn.Module:
    """The first layer of a network's classifier. Raises InputError for a network that has none."""
    prefixes: tuple[str, ...] = getattr(network, "classifier_prefixes", ())
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and f"{name}.".startswith(prefixes or (".",)):
            return module
    raise InputError(f"{type(network).__name__}: has no classifier, and so no embedding")


def load_model(model_file_path: str = "") -> HearModel:
    """A run, a bundle, the name of a packaged model, or an exported .onnx file; without one, the first packaged model.

    Raises InputError if the model cannot be used.
    """
    if not model_file_path:
        names = list(packaged_models())
        if not names:
            raise InputError("no model comes with this package: name a run or a bundle")
        model_file_path = names[0]
    path = find_model(model_file_path)
    if (path / INDEX).exists():
        return ClassifierModel(load(path, "reference"))
    if path.suffix == ".onnx":
        return ClassifierModel(load(path))
    network, card = load_network(path)
    recipe = card.parsed_recipe
    return NetworkModel(network, features_of(recipe), recipe.features)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding for each sound: (sound, samples) within +-1 at the model's rate -> (sound, channels), float32.

    The last clip of a sound is filled up with silence, or left out if it is less than half of one.
    """
    clips = max(1, round(audio.shape[1] / model.clip_samples))
    padded = F.pad(audio, (0, max(0, clips * model.clip_samples - audio.shape[1])))[:, : clips * model.clip_samples]
    windows = padded.unflatten(1, (clips, model.clip_samples))  # (sound, clip, samples)
    return _embed(windows, model).mean(1)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings every 50 ms: (sound, samples) within +-1 -> (sound, time, channels), and (sound, time) in ms.

    Each is of the clip around its timestamp; silence lies before and after the sound.
    """
    hop, half = round(HOP_SECONDS * model.sample_rate), model.clip_samples // 2
    count = audio.shape[1] // hop + 1
    padded = F.pad(audio, (half, model.clip_samples + hop))
    windows = padded.unfold(1, model.clip_samples, hop)[:, :count]  # (sound, time, samples)
    timestamps = torch.arange(count, device=audio.device) * (1000 * hop / model.sample_rate)  # (time,)
    return _embed(windows, model), timestamps.float().expand(len(audio), -1)


@torch.inference_mode()
def _embed(windows: Tensor, model: HearModel) -> Tensor:
    """Clips (sound, clip, samples) -> embeddings (sound, clip, channels), BATCH of them at a time."""
    sounds, clips = windows.shape[:2]
    parts = [
        model(windows[index // clips, index % clips].float())
        for index in torch.arange(sounds * clips, device=windows.device).split(BATCH)
    ]
    return torch.cat(parts).float().unflatten(0, (sounds, clips))
