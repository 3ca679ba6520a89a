"""Generate chest X-rays: seeded, small, free to share, for demonstrations and tests."""
