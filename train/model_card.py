"""The model card of a bundle, after M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019."""

from typing import Any

from deploy.frontend import FrontEnd

TEMPLATE = """\
# {name}

An acoustic scene classifier: one second of sound in, one of {classes} labels out. Integers only: int16 PCM,
int8 features, int8 network. Made by tinyscene {version}.

Labels: {labels}.

| | |
|---|---:|
| parameters, as the challenge counts them | {parameters:,} |
| MACs for one second, as the challenge counts them | {macs:,} |
| bytes of weights and biases | {deployed_bytes:,} |
| sample rate | {sample_rate:,} Hz |
| features | {n_mels} mel x {frames} frames |

## Training

Recipe `{recipe}`, seed {seed}, split {split}. Data hash `{data_hash}`. {source}

## Quantization

{method}

## Use

    tinyscene classify BUNDLE recording.wav
    tinyscene verify BUNDLE

## Limits

The scores are the network's and are not calibrated probabilities. Sounds from other microphones, places and
scenes than it was trained on are classified less well, and every sound is given one of its labels. Weights
take over the terms of the recordings they were trained on: TAU Urban Acoustic Scenes is free for
experimental and non-commercial use only.
"""


def model_card(name: str, labels: tuple[str, ...], content: dict[str, Any]) -> str:
    """Markdown for a bundle with this index."""
    recipe, trained, quantized = content["recipe"], content["trained"], content["quantized"]
    features, settings = recipe["features"], recipe["quantize"]
    method = (
        f"Calibrated on {quantized['calibration_clips']} training clips ({settings['calibration']}), biases "
        f"{'corrected' if settings['bias_correction'] else 'left as they were'}."
    )
    if training := quantized["training"]:
        method += f" Fine-tuned with rounding for {len(training)} epochs" + (
            f", {settings['distill']:.0%} distilled from the float network." if settings["distill"] else "."
        )
    return TEMPLATE.format(
        name=name,
        classes=len(labels),
        labels=", ".join(labels),
        version=quantized["made_by"]["versions"].get("tinyscene", "unknown"),
        sample_rate=features["sample_rate"],
        n_mels=features["n_mels"],
        frames=FrontEnd(**features).shape[1],
        recipe=recipe["name"],
        seed=recipe["seed"],
        split=trained["split"] or "unknown (weights were imported)",
        data_hash=trained["data_hash"] or "unknown",
        source=f"Weights from {trained['source']}." if trained["source"] else "",
        method=method,
        **content["budget"],
    )
