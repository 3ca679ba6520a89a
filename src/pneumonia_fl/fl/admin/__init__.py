"""Jobs on a real server, from a person's kit: submit, watch, download, abort, resume."""
