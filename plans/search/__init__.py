"""How patterns are chosen for heads by their errors and costs."""
