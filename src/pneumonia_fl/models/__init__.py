"""Build networks by name; read and write them as safetensors with a model card."""
