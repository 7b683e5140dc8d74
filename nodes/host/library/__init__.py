"""Plans and profiles on disk, and how a model is identified."""
