//! The control plane, the command line and the console: arguments in, parts assembled.

fn main() {}
