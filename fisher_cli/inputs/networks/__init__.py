"""Networks: which architecture weights belong to, by word, hint or their names and shapes."""
