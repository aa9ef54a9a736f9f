"""Who does the work: processes of this machine, or workers of a cluster that may be lost, behind one Protocol."""
