"""A small Wan 2.1 T2V that the project trains itself, so that tests and the demo run on real input.

`model` is the network, `video` the procedural video it learns, `train` makes the weights, `sample` generates.
"""
