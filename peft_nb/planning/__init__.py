"""Before a run: which method to take, what it needs in memory and time, what it would train."""
