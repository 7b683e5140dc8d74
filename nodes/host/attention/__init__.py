"""Attention calls of the model: how they are caught, told apart, and handed on."""
