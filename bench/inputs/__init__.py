"""What studies measure: the vectors of all sources, their transformed and damaged versions, rows drawn on demand."""
