"""What every layer above needs: the reasons for dense attention, counts, times."""
