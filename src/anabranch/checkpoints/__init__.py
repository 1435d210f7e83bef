"""Checkpoint files of any zoo: read safely, recognised, and spelt as another zoo spells them."""
