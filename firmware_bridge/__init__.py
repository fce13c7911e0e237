"""The bridge to firmware: a bundle as plain C99 with a planned arena, its toolchains, emulators and packages."""
