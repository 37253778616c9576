"""Agents and models: declared, stored, filtered by policy, measured."""
