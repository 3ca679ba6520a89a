"""What a person does with jobs on a real server: submit, watch, download, abort, go on."""
