"""Warnings about calibration clips that make the result depend on chance."""

from tinyscene.train.data.training_data import TrainingData

FEW = 64  # clips, below which ranges depend on which clips they are


def few_clips(count: int) -> list[str]:
    """A line if there are few calibration clips."""
    few = f"calibrated on {count} clips; with fewer than {FEW} the result depends on which they are"
    return [few] if count < FEW else []


def warnings(data: TrainingData, count: int) -> list[str]:
    """A line for each thing that is wrong with `count` calibration clips of the training list."""
    lines = few_clips(count)
    used = {str(device) for device in data.clips.recording_devices(data.training_clips())}
    if len(used) == 1 and len({entry.device for entry in data.dataset.recordings}) > 1:
        lines.append(f"calibrated on recording device {used.pop()} alone; the dataset has others")
    return lines
