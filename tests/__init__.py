"""The claims of this project, room by room."""
