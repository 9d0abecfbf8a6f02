"""The pages: each has a typed view model, a pure function that makes it, and a route that renders it."""
