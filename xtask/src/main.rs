//! The project's own commands: tidy, test, peers, bench.

fn main() {}
