//! The custom resources: what the `api` crate defines.

use super::Kinds;

pub(super) fn add(_kinds: &mut Kinds) {}
