"""Published figures of DCASE 2024 Task 1: its baseline, and systems with its network, for tables that ours stand in."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from tinyscene.train.data.datasets import DEVICE_GROUPS, SCENES
from tinyscene.train.sweep.statistic import RunStatistics, Statistic

PUBLISHED_SOURCE = (
    "DCASE 2024 Task 1 baseline, mean of 5 runs a split on the test list of TAU Urban Acoustic Scenes 2022 Mobile: "
    "https://github.com/CPJKU/dcase2024_task1_baseline, README, 'Baseline Results'; F. Schmid et al., arXiv:2405.10018"
)
RUNS = 5  # a split
PUBLISHED_PARAMETERS, PUBLISHED_MACS = 61_148, 29_419_156
PUBLISHED_MACRO = {  # split: macro-average accuracy and its deviation, %
    "5": (42.40, 0.42),
    "10": (45.29, 1.01),
    "25": (50.29, 0.87),
    "50": (53.19, 0.68),
    "100": (56.99, 1.11),
}
PUBLISHED_CLASSES = {  # split: accuracy of each of SCENES, %
    "5": (34.77, 45.21, 30.79, 40.03, 62.06, 22.28, 52.07, 31.32, 70.23, 35.20),
    "10": (38.50, 47.99, 36.93, 43.71, 65.43, 27.05, 52.46, 31.82, 72.64, 36.41),
    "25": (41.81, 61.19, 38.88, 40.84, 69.74, 33.54, 58.84, 30.31, 75.93, 51.77),
    "50": (41.51, 63.23, 43.37, 48.71, 72.55, 34.25, 60.09, 37.26, 79.71, 51.16),
    "100": (46.45, 72.95, 52.86, 41.56, 76.11, 37.07, 66.91, 38.73, 80.66, 56.58),
}
PUBLISHED_DEVICES = {  # split: accuracy on each device in the order of DEVICE_GROUPS, %
    "5": (54.45, 45.73, 48.42, 39.66, 36.13, 44.30, 38.90, 40.47, 33.58),
    "10": (57.84, 48.60, 51.13, 42.16, 40.30, 46.00, 43.13, 41.30, 37.26),
    "25": (62.27, 53.27, 55.39, 47.52, 46.68, 51.59, 47.39, 46.75, 41.75),
    "50": (65.39, 56.30, 57.23, 52.99, 50.85, 54.78, 48.35, 47.93, 44.90),
    "100": (67.17, 59.67, 61.99, 56.28, 55.69, 58.16, 53.05, 52.35, 48.58),
}


@dataclass(frozen=True)
class PublishedSystem:
    """A published system on the test list of TAU."""

    name: str
    source: str
    parameters: int
    macs: int
    accuracy: dict[str, float]  # by split, %

    def as_dict(self) -> dict[str, Any]:
        """With the accuracies as shares of 1."""
        return asdict(self) | {"accuracy": {split: value / 100 for split, value in self.accuracy.items()}}


SYSTEMS_SOURCE = (
    "J. J. S. Yeo et al., 'Data Efficient Acoustic Scene Classification using Teacher-Informed Confusing Class "
    "Instruction' (SNTL-NTU, DCASE 2024), arXiv:2409.11964"
)
PUBLISHED_SYSTEMS = (
    PublishedSystem(
        "published student of 3 PaSST and 3 CNNs (TAU)",
        f"the baseline's network, distilled from three PaSST and three CNNs: {SYSTEMS_SOURCE}",
        PUBLISHED_PARAMETERS,
        PUBLISHED_MACS,
        {"5": 47.97, "10": 53.03, "25": 56.81, "50": 59.82, "100": 61.74},
    ),
    PublishedSystem(
        "published width 24 without teachers (TAU)",
        f"the baseline's network with 24 base channels, mixup, Freq-MixStyle and impulse responses: {SYSTEMS_SOURCE}",
        35_062,  # as `tinyscene budget baseline --set model.base_channels=24` counts
        16_855_776,
        {"5": 43.68, "10": 47.21, "25": 53.39, "50": 55.50, "100": 57.59},
    ),
)


def published_baseline(split: str) -> RunStatistics:
    """The published baseline's figures on a split of TAU, as those of a run. A group's are the mean of its devices."""
    macro, deviation = PUBLISHED_MACRO[split]
    devices = [device for group in DEVICE_GROUPS.values() for device in group]
    by_device = dict(zip(devices, PUBLISHED_DEVICES[split], strict=True))
    groups = {name: statistics.mean(by_device[device] for device in members) for name, members in DEVICE_GROUPS.items()}

    def known(figures: dict[str, float]) -> dict[str, Statistic]:
        return {name: Statistic(value / 100, None, RUNS) for name, value in figures.items()}

    return RunStatistics(
        parameters=PUBLISHED_PARAMETERS,
        macs=PUBLISHED_MACS,
        macro_accuracy=Statistic(macro / 100, deviation / 100, RUNS),
        by_class=known(dict(zip(SCENES, PUBLISHED_CLASSES[split], strict=True))),
        by_device=known(by_device),
        by_device_group=known(groups),
    )
