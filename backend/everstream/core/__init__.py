"""What is true: the rules, without I/O, clock or event loop."""
