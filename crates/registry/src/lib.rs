//! Kubernetes API, Eureka, files: streams of `Change`s.
