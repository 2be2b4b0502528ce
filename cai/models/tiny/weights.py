"""Where the embedded model lies. It is an ordinary transformers folder and is loaded like any other model."""

from pathlib import Path

FOLDER = Path(__file__).parent / "data"
