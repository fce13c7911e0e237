"""The bundle: what is shipped, and what is held to it."""
