"""Convolutional embedders in number formats: learned from the float network's own features.

float network → layers with rounded weights and bytes for activations (`network`) → training on
synthetic sounds (`inputs`), in stages that are kept (`making`) → packed network
"""
