"""Stated values found in text and aligned to tokens; activations of chains and their store."""
