"""Describe a startup kit on disk: its identity, settings, file modes and processes."""
