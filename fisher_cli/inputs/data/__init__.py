"""Data: which examples, how their images are sized and normalised, what their labels are."""
