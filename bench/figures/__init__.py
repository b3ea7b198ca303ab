"""Figures of the studies: each is drawn from the tables of its study and from nothing else."""
