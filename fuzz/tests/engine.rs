//! libFuzzer's end: which target it runs is said by `MIZZEN_FUZZ`. Built and started by `cargo xtask fuzz`.

#![no_main]

use std::sync::OnceLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("MIZZEN_FUZZ").unwrap_or_default();
        fuzz::prepare();
        *fuzz::find(&name).unwrap_or_else(|| panic!("MIZZEN_FUZZ names no target: {name:?}"))
    });
    (target.run)(data);
});
