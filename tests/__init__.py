"""The tests mirror the folders."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
