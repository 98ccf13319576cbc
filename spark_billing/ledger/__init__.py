"""What was billed: the difference to it, its commit, what is read back; the run, the stream."""
