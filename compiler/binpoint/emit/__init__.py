"""Program → files: C from templates."""
