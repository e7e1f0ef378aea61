"""Tables to one self-contained HTML file."""
