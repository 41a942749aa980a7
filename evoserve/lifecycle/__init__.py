"""What is registered, loaded and named on a server: recipes, aliases, history, pins."""
