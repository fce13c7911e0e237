"""Offsets of the mel bands in C: their constants, their table, and their memory in the state."""

from tinyscene.deploy.frontend.band_offsets import VERSION, Bands
from tinyscene.firmware_bridge.codegen.frontend_tables import table
from tinyscene.firmware_bridge.codegen.network import Config

MEANING = "the means of the mel bands in training clips, by class, in steps of 1/256"
FILES = ("tinyscene_bands.h", "tinyscene_bands.c")


def bands_bytes(bands: Bands | None) -> int:
    """Memory in the state: the size of tinyscene_offsets at most; 0 without offsets."""
    return 0 if bands is None else 8 + 9 * len(bands.means[0]) + 3


def bands_config(bands: Bands | None) -> Config:
    """Constants of the offsets; none without them."""
    if bands is None:
        return {}
    return {
        "BANDS": len(bands.means[0]),
        "BANDS_VERSION": f"UINT32_C(0x{VERSION:08X})",
        "BANDS_MODEL": f"UINT32_C(0x{bands.identity:08X})",
        "BANDS_PRIOR": bands.prior,
        "BANDS_HORIZON": bands.horizon,
        "BANDS_SILENCE": f"({bands.silence})",
    }


def bands_tables(bands: Bands | None) -> dict[str, str]:
    """The generated file of the offsets, if there are any."""
    if bands is None:
        return {}
    means = table("int16_t", "band_means", MEANING, [mean for row in bands.means for mean in row])
    return {"tinyscene_band_means.c": f'#include "tinyscene_bands.h"\n#include "tinyscene_processor.h"\n\n{means}'}
