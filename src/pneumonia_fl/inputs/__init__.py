"""Read what comes from people, files and other machines: text, names, paths, JSON, YAML, kinds of files."""
