"""What a model does: its answers, and how they are judged."""
