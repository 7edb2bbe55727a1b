//! The data plane together with its agent: arguments in, parts assembled.

fn main() {}
