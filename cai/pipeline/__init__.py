"""A recipe, its stages, and the runner that does what is not done yet."""
