//! apply, explain, analyze, status, run, demo.
