"""The tables of a report: their columns, their rows, and data frames of both."""
