"""Talks to the neighbours: one file for each, which translates what it says and raises."""
