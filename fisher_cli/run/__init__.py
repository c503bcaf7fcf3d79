"""One row of a report, and the sequence of rows: where inputs meet curvature."""
