"""Who does the work: processes of this machine, behind a Protocol that others can fulfil."""
