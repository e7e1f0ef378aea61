"""What the verbs do: init, ask, search, show, doctor, rate."""
