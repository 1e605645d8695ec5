"""The `relic` command line, the browser page and its server."""
