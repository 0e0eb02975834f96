"""Convolutions and networks looked at: how they are computed, what they consist of."""
