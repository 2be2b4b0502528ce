"""The embedded model: a small world, its truth, and a real model made from it."""
