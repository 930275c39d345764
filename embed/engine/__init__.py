"""What run.py calls on, and what every packed file carries: formats, backends, chat, reports."""
