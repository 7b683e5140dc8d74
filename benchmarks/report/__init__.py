"""Result files, tables, pictures, the demo, and the command for whoever has a GPU."""
