"""What is happening: the part that lives on the event loop."""
