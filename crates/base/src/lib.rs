//! Names, SPIFFE ids, localities, a clock and a random source that tests can replace.
//!
//! Everything here is plain data. There is no I/O, no configuration and no global state.

mod clock;
mod hex;
mod locality;
mod names;
mod off_limits;
mod random;
mod spiffe;

pub use clock::{Clock, ManualClock, SystemClock};
pub use hex::{hex, push_hex};
pub use locality::Locality;
pub use names::{Host, NamespacedName, ParseHostError};
pub use off_limits::off_limits;
pub use random::{Random, SeededRandom, ThreadRandom};
pub use spiffe::{ParseSpiffeIdError, SpiffeId, TrustDomain};
