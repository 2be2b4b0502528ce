"""Trainers: they take rows, a trainee, a folder and a `probe`, and know nothing of constitutions, judges or runs."""
