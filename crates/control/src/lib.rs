//! Assembles the control plane: registries, push, xDS, CA, status.

pub mod ca_service;
