//! How the process has memory: no huge pages, and what is free goes back.
//!
//! The one unsafe place of this program: what the allocator offers for that, it offers in C.

#![allow(unsafe_code)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Before anything else. A proxy with little to do would be several times as large in huge pages; the allocator does not
/// ask for them, but a kernel may give them to everybody. Where it does not let itself be told so it stays at that.
pub(crate) fn prepare() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// After the first configuration was read, which takes many times as much as what is made of it.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
