//! `Snapshot` and `Node` in, xDS out. Pure.
