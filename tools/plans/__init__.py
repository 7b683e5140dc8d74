"""How the shipped plans follow from public measurements of the real models; not part of the installed pack."""
