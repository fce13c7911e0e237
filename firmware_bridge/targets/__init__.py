"""What firmware is built for and run on: toolchains, images, emulators."""
