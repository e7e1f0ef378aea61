"""Questions of other makers in, corrections of experts in and out, exports for other tools."""
