"""Frames in, frames out: each kind of link states its offloads and parses nothing."""
