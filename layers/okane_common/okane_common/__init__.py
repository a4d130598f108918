"""What OKANE's functions share. One module for each thing; see docs/architecture.md for who may import whom."""
