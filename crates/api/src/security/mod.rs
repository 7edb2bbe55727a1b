//! `security.istio.io`: who may call whom, and how that is proven.

mod authentication;
mod authorization_policy;

pub use authentication::*;
pub use authorization_policy::*;
