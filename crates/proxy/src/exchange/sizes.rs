//! How large the future of a request is: it is copied to where it lives, so what hardly any request needs stands in a box.

use super::forward::handle;

/// The size of what a function of so many arguments returns.
fn of<A, B, C, D, E, F, Future>(_: impl FnOnce(A, B, C, D, E, F) -> Future) -> usize {
    size_of::<Future>()
}

#[test]
fn a_request_takes_no_more_than_it_did() {
    let size = of(handle);
    assert!(size <= 5200, "{size} bytes");
}
