"""Many runs of one experiment: a grid of options, measured by one process or many, on one machine or many."""
