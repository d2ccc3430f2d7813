"""Measurements over folders of documents with questions: what the product promises, in numbers. Nothing here is a test."""
