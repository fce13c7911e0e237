/* A stand-in, see ../README.md: what the build writes from the defaults of Kconfig.projbuild; -D overrides one. */
#pragma once
#define CONFIG_SCENE_I2S_SCK 4
#define CONFIG_SCENE_I2S_WS 5
#define CONFIG_SCENE_I2S_SD 6
#if !defined(CONFIG_SCENE_MIPS)
#define CONFIG_SCENE_MIPS 100
#endif
#if !defined(CONFIG_SCENE_SOUND_MS)
#define CONFIG_SCENE_SOUND_MS 0
#endif
