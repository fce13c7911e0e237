"""What every stage uses: errors, whole writes, provenance, the terminal."""
