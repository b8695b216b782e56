"""The published userbuffers dictionaries: which there are, what they hold, what each was tuned for."""
