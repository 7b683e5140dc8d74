"""Plans found while sampling: what is measured, searched and kept."""
