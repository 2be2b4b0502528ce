"""What a model does on held-out requests, how two models differ, and the report of a whole run.

Nothing here trains or loads a model, and nothing imports torch: suites take any `Model`.
"""
