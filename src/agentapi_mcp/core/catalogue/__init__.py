"""Agents and models: declarations, storage, policy and health."""
