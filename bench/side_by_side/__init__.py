"""Two implementations of one pipeline, which bench/paper.py runs side by side, and what they share."""
