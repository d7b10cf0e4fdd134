"""The command line. `main` imports click alone; each command imports what it needs when it runs."""
