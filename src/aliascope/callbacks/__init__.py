"""Curves of aliasing and shift instability while a network trains.

watch: what both measure, and when → lightning, transformers: one `AliasingCallback` for each

Each needs the extra `train`, and none is imported before it is asked for:
`from aliascope.callbacks.lightning import AliasingCallback`.
"""
