"""Constitutions: written values as text, and the words put around them. Nothing here knows a model."""
