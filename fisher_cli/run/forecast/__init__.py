"""What a run will cost in memory and time, before it is made."""
