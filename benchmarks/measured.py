"""What all measured results are: frozen dataclasses, written to JSON and read back from it.

A bundle's index may come from anywhere, so a result is read strictly: a value of another type or outside its range is
refused. Keys that are not known are ignored, as a later version may have written them.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, lt=1e18)]
Count = Annotated[int, Field(ge=0, lt=10**18)]


@dataclass(frozen=True)
class Measured:
    """A result of a measurement."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)
