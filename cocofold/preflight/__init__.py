"""Whether particles, model and map belong together, before anything is fitted to anything."""
