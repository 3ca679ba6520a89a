"""The command line: one documented function per command, no logic."""
