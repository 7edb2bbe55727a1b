//! End-to-end scenarios over real processes and real sockets.
