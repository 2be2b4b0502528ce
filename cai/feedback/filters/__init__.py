"""What preference data is better without: duplicates, bursts, private data, poor text, leaks of a test set.

One file a filter; each looks at rows and says which one should go, and why. `sifting` runs them over a data set.
"""
