"""What a model costs: parameters, bytes and MACs, layer by layer, and the limits that it is held to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from tinyscene.deploy.common.errors import OverBudgetError
from tinyscene.deploy.frontend.log_mel import ONE_SECOND
from tinyscene.train.runs.listening import Listening
from tinyscene.train.training_settings import Budget


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class DeployedCount:
    """What a network costs with BatchNorm folded, in int8 with int32 biases."""

    parameters: int
    int8_bytes: int
    macs: int


@dataclass(frozen=True)
class Count:
    """What a model costs. `bytes` is in the precision the limits are held against."""

    source: str
    parameters: int
    macs: int
    bytes: int
    precision: str
    layers: tuple[Layer, ...]
    deployed: DeployedCount | None = None  # of a clip; none for a file, which is counted as it is deployed
    nessi_macs: int | None = None  # of a .tflite, as NeSsi counts one: additions and averages, too
    clip_seconds: float = ONE_SECOND
    clip_macs: int | None = None  # of a clip of this length, counted as `macs` is; none where that is one second
    listening: Listening | None = None  # of a second; none for a file, which does not tell its features

    def faults(self, limits: Budget) -> list[str]:
        """One line for each limit that is passed."""
        pairs = (("bytes", self.bytes, limits.max_bytes), ("MACs", self.macs, limits.max_macs))
        return [f"{value:,} {what} is over the limit of {most:,}" for what, value, most in pairs if value > most]

    def require(self, limits: Budget, allow_over: bool = False) -> None:
        """Raise OverBudgetError if a limit is passed, unless that is allowed."""
        if not allow_over and (faults := self.faults(limits)):
            raise OverBudgetError(
                f"{self.source}: {' and '.join(faults)}; make the model smaller or say --allow-over-budget"
            )

    def as_dict(self, limits: Budget) -> dict[str, object]:
        limit = {"bytes": limits.max_bytes, "macs": limits.max_macs}
        return {**asdict(self), "limits": limit, "within_budget": not self.faults(limits)}


def macs_of(layers: Iterable[Layer]) -> int:
    return sum(layer.macs for layer in layers)
