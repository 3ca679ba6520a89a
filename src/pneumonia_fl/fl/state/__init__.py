"""Keep what a job needs to resume: the server's state after each round, and a site's own state."""
