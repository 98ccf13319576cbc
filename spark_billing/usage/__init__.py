"""A usage table of any shape -> calls, each with its price or the reason why it is not billed."""
