"""Run in the server's job process: the controller of a job and its collaborators."""
