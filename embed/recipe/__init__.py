"""How the default model is made: its grammar and its training."""
