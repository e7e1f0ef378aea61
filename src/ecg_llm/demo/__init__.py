"""The bundled handbook, its expert questions and the demo study."""
