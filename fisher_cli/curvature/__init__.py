"""The mathematics, on torch alone: knows nothing of files, names or terminals."""
