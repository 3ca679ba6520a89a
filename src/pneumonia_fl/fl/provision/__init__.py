"""Startup kits: from project.yml to folders that can be handed out and started."""
