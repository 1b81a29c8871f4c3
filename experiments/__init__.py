"""Experiments whose results the documentation states; each can be run again."""
