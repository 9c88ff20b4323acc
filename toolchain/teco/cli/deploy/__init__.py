"""Commands for people who ship a model: export, verify, info, estimate, doctor."""
