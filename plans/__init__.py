"""Plans: which pattern each head of a model runs, how that is measured, chosen, kept and shown."""
