//! Drain, supervision, backoff, admin server, metrics and tracing set-up.
