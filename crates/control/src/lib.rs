//! Assembles the control plane: registries, push, xDS, CA, status.
