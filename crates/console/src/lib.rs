//! Serves the web UI and its API; writes go through the API server with the user's token.
