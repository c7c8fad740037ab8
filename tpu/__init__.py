"""Cloud TPU: requests for slices, the programs on their hosts, estimates and rehearsals."""
