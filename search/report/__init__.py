"""One HTML page about a run: gather data, draw SVG, compose the page."""
