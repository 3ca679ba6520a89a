"""Show progress, tables and results in the terminal."""
