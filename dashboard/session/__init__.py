"""What a browser session holds: controls, links, the chosen bundle, sounds, runs and jobs."""
