//! The embedded Kubernetes-style API and its store.
