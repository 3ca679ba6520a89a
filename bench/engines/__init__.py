"""The same training under three engines: bare processes, NVFlare's own recipe, and (outside this folder) `run`."""
