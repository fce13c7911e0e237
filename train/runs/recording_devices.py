"""Recording devices: the networks that a run has for single ones, and the part of a dataset that one recorded.

RUN/model.safetensors            the general network, for every device that has none of its own
RUN/devices/DEVICE/              a run like any other, fine-tuned for a device (train/fine_tuning/adapt.py)
"""

from dataclasses import replace
from pathlib import Path

from torch import nn

from tinyscene.deploy.bundle.index import require_device_name
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.runs.run import Card, load_model

DEVICES = "devices"


def part_of(dataset: Dataset, split: str, device: str) -> Dataset:
    """A dataset in whose split only what a device recorded is trained on; the test list is as it was.

    Raises InputError if the training list holds nothing of the device.
    """
    training, test = dataset.split(split)
    recorded = {entry.path for entry in dataset.recordings if entry.device == device}
    own = tuple(path for path in training if path in recorded)
    if not own:
        raise InputError(f"{dataset.root}: no recording of device {device} is in the training list of split {split}")
    return replace(dataset, splits=dataset.splits | {split: (own, test)})


def load_devices(run: Path, card: Card) -> dict[str, tuple[nn.Module, Card]]:
    """Networks and cards of the devices that a run, whose card is given, has networks for; mostly none.

    Raises InputError for a network that is not of the general one's kind.
    """
    folder, networks = run / DEVICES, {}
    for path in sorted(path for path in folder.glob("*") if path.is_dir()):
        require_device_name(path.name)
        networks[path.name] = load_model(path)
        if _kind(networks[path.name][1]) != _kind(card):
            raise InputError(f"{path}: has other labels, features or layers than {run}; adapt that again")
    return networks


def _kind(card: Card) -> tuple[object, ...]:
    recipe = card.parsed_recipe
    return card.labels, recipe.features, recipe.model.finished()
