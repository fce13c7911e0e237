"""Classification of recordings, of streams and of the sound card."""
