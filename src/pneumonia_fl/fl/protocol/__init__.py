"""Describe what travels between server and sites: messages, results, models, and their limits."""
