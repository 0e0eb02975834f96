"""Pools: maps between an array and windows that slide over it, as primitives."""
