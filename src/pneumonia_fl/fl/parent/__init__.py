"""Run in the parent process of a server or a site: what `local/resources.json` names."""
