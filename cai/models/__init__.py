"""Models behind one protocol: local, remote, scripted, and the embedded one."""
