"""Layouts that other tools write and read: rows of theirs to values of ours and back, one file each.

`importing` and `exporting` drive them over whole files; nothing here decides what a row is worth.
"""
