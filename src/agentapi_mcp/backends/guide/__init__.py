"""The guide: answers from the documentation and the live state, without a model."""
