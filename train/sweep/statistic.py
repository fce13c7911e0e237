"""Statistics over runs: the sizes of a network, and its accuracy with deviations. Accuracies are shares of 1."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Statistic:
    mean: float
    sd: float | None  # the sample standard deviation; none of a single value
    count: int


@dataclass(frozen=True, kw_only=True)
class RunStatistics:
    """What runs of one recipe on one split reached. What is none is not known."""

    parameters: float  # the mean over runs, as all sizes
    macs: float
    clips: float | None = None
    seconds: float | None = None  # of training
    accuracy: Statistic | None = None
    macro_accuracy: Statistic
    log_loss: Statistic | None = None
    by_class: dict[str, Statistic] = field(default_factory=dict)
    by_device: dict[str, Statistic] = field(default_factory=dict)
    by_device_group: dict[str, Statistic] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What is known."""
        return {key: value for key, value in asdict(self).items() if value is not None}
