"""A transformer over video, frame by frame, in constant time and memory: `python -m examples.video CLIP`."""
