//! Plays all cases and the generated routes; fails on what differs and is not listed.

fn main() -> std::process::ExitCode {
    differential::main()
}
