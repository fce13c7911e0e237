"""From a recording to features: decoding, resampling, the log-mel in float and in fixed point."""
