"""The lengths of window and hop in a recipe's `features`, in seconds or in samples, when overrides change them."""

import inspect
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd

LENGTHS = {  # keys, and those that an override of them replaces
    "window_seconds": ("win_length", "n_fft"),
    "win_length": ("window_seconds",),
    "hop_seconds": ("hop_length",),
    "hop_length": ("hop_seconds",),
}


def as_given(features: dict[str, Any], overrides: list[str], source: str) -> dict[str, Any]:
    """A recipe's features as it gives them, without the lengths that overrides give in seconds or in samples.

    Raises InputError for lengths in samples where the overrides change the sample rate that they were meant for.
    """
    parts = (setting.partition("=") for setting in overrides if setting.startswith("features."))
    given = {key.removeprefix("features."): text.strip() for key, _, text in parts}
    replaced = {other for key in given.keys() & LENGTHS.keys() for other in LENGTHS[key]} - given.keys()
    kept = {key: value for key, value in features.items() if key not in replaced}
    rate = kept.get("sample_rate", FrontEnd.sample_rate)
    fixed = sorted({"win_length", "hop_length"} & kept.keys() - given.keys())
    if fixed and given.get("sample_rate", str(rate)) != str(rate):
        raise InputError(
            f"--set features.sample_rate: {source} gives {' and '.join(fixed)} in samples at {rate:,} Hz: also set "
            "features.window_seconds and features.hop_seconds, or both in samples"
        )
    return kept


def feature_keys() -> list[str]:
    """The keys of a recipe's features, dotted, of which files of runs lack some."""
    return [f"features.{name}" for name in inspect.signature(FrontEnd).parameters]
