"""What can be wrong with rows, and its fixes."""
