"""File formats: from bytes to tensors and plain values, executing nothing."""
