"""Run in a site's job process and its trainer: receive the model, evaluate, train, answer."""
