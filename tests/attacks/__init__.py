"""Hostile checkpoint files, made by generators. None does harm: what they try to run would touch a marker file."""
