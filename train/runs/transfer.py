"""Starting from weights that were trained before: of a run, or published.

    tinyscene train RECIPE --data DATA --weights RUN | FILE.safetensors | FILE.pt --out RUN
    tinyscene teach passt --weights published --data DATA --out RUN            # fetched once, when online

Every tensor of the network must be among the weights, of its shape; those of another shape of network are not
half taken over. The classifier (`network.classifier_prefixes`) is the exception: it is taken over where the
labels are the same and stays as it was initialised otherwise. A family that reads others' files has
`published(tensors)`, which puts them into its own names and shapes; one that has more parts while it trains than
afterwards has `completed(tensors)`, which adds them. Files are parsed, never executed.
"""

from pathlib import Path

import torch
from torch import nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, sha256
from tinyscene.train.data.download import DownloadError, OtherFileError, download
from tinyscene.train.network_settings import EfficientAtModel, Model
from tinyscene.train.runs.pickled import MAX_FILE, PICKLED, read_pickled
from tinyscene.train.runs.run import load_tensors, model_path, read_card
from tinyscene.train.runs.weights import converted, require_variances

PUBLISHED = {  # weights trained on AudioSet
    "passt": "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt",
    "ast": "https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main/model.safetensors",
}
EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
EFFICIENTAT_FILES = {  # by width
    0.1: "mn01_as_mAP_298.pt",
    0.2: "mn02_as_mAP_378.pt",
    0.4: "mn04_as_mAP_432.pt",
    0.5: "mn05_as_mAP_443.pt",
    1.0: "mn10_as_mAP_471.pt",
    2.0: "mn20_as_mAP_478.pt",
    3.0: "mn30_as_mAP_482.pt",
    4.0: "mn40_as_mAP_484.pt",
}


def transfer(network: nn.Module, weights: Path, labels: tuple[str, ...]) -> str:
    """Load weights into a network for these labels. Returns what they are, for the card.

    Raises InputError: no such file, nothing that can be read, or weights of another network.
    """
    path = weights if weights.suffix in PICKLED else model_path(weights)
    tensors, header = (read_pickled(path), {}) if path.suffix in PICKLED else load_tensors(path)
    card = read_card(header, path)
    if hasattr(network, "published"):
        tensors = network.published(tensors)  # type: ignore[operator]
    if hasattr(network, "completed"):
        tensors = network.completed(tensors)  # type: ignore[operator]
    keeps_head = card is not None and card.labels == labels
    classifier: tuple[str, ...] = network.classifier_prefixes  # type: ignore[assignment]
    matching = {}
    for name, own in network.state_dict().items():
        if name.startswith(classifier) and not keeps_head:
            continue
        tensor = tensors.get(name)
        if not isinstance(tensor, torch.Tensor) or tensor.shape != own.shape:
            has = isinstance(tensor, torch.Tensor)
            what = f"has it as {list(tensor.shape)}, not {list(own.shape)}" if has else "lacks it"
            raise InputError(f"{path}: is of another network: {name}: the file {what}")
        matching[name] = converted(tensor, own, name, path)
    if card is None:
        require_variances(matching, path)
    network.load_state_dict(matching, strict=False)
    return f"{weights} sha256:{sha256(path)}"


def find_weights(named: str, model: Model) -> Path:
    """The path of weights, which are fetched if they are the family's `published` ones."""
    if named != "published":
        return Path(named)
    if isinstance(model, EfficientAtModel):
        if model.width not in EFFICIENTAT_FILES:
            widths = ", ".join(str(width) for width in EFFICIENTAT_FILES)
            raise InputError(f"--weights published: there are none for model.width {model.width}, but for {widths}")
        return fetch(EFFICIENTAT + EFFICIENTAT_FILES[model.width])
    if model.family not in PUBLISHED:
        raise InputError(f"--weights published: {model.family} has none; name a run or a file")
    return fetch(PUBLISHED[model.family])


def fetch(url: str, folder: Path | None = None, most: int = MAX_FILE, known: str | None = None) -> Path:
    """Published weights, of `most` bytes at most, downloaded once into a folder, by default one of the cache.

    `known` is their SHA-256, if it is known before. Raises InputError where that is not possible, and for another file.
    """
    folder = folder or cache_folder() / "weights"
    try:
        return download(url, folder, most, known)
    except OtherFileError:
        raise InputError(f"{url}: is not the file that has the known SHA-256, and is not used") from None
    except DownloadError as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}); get it elsewhere and put it in "
            f"{folder}, or name the file as the weights"
        ) from None
