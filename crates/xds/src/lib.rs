//! The ADS state machines, both ends, without I/O; thin gRPC and REST adapters.
