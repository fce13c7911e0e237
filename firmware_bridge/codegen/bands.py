"""Offsets of the mel bands in C: their constants, their table, and their memory in the state."""

from tinyscene.deploy.frontend.band_offsets import VERSION, Bands
from tinyscene.firmware_bridge.codegen.network import Config

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
    rows = "".join(f"    {{{', '.join(map(str, row))}}},\n" for row in bands.means)
    head = '#include "tinyscene_bands.h"\n\nconst int16_t tinyscene_band_means'
    return {"tinyscene_band_means.c": f"{head}[TINYSCENE_CLASSES][TINYSCENE_BANDS] = {{\n{rows}}};\n"}
