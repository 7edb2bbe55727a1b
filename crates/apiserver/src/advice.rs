//! What whoever knows the whole mesh says of one resource that is being stored.
//!
//! This server judges a resource by itself alone. That a subset or a host exists nowhere is seen only beside the other
//! resources: such things are said as warnings, never refused, since people apply files in any order.

use futures::future::BoxFuture;
use serde_json::Value;

/// Gives warnings about a custom resource or a ConfigMap; answers within a moment.
pub trait Advisor: Send + Sync {
    fn advise<'a>(&'a self, object: &'a Value) -> BoxFuture<'a, Vec<String>>;
}
