"""Pages and tables made from results/: the page of all results, and the tables of README and docs."""
