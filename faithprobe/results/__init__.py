"""The record of an audit: its tables, its summary, its files."""
