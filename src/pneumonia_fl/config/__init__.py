"""Define what a job file may say and what a machine says for itself: typed settings, checked once."""
