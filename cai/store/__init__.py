"""What lies on the disk: run folders, exports and imports, lineage."""
