/* A stand-in, see ../README.md. */
#pragma once
#define IRAM_ATTR
