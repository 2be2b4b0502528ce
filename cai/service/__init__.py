"""The HTTP face: runs, their progress, and an OpenAI-compatible endpoint, on loopback."""
