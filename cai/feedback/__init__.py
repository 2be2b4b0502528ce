"""Feedback: answers criticised and revised, pairs of answers made and judged. No torch: models come in by protocol."""
