"""Plans and profiles on disk, and how a model is told from others."""
