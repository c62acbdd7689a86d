"""Faithfulness as a training loss."""
