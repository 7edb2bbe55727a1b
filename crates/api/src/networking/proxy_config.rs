//! ProxyConfig: settings of single proxies.

use crate::common::{LabelSelector, StringMap};
use crate::message::message;

message! {
    /// Settings of the proxies of some workloads, read when they start.
    pub struct ProxyConfig {
        /// The workloads; all of the namespace when absent.
        pub selector: Option<LabelSelector>,
        /// Worker threads; as many as there are processors at 0. Read by `mizzen run` and `mizzen gateway`.
        #[schemars(range(min = 0))]
        pub concurrency: Option<i32>,
        /// Environment variables of the proxy.
        pub environment_variables: StringMap,
        /// Image of the proxy.
        pub image: Option<ProxyImage>,
    }

    /// Image of the proxy.
    pub struct ProxyImage {
        /// default, distroless or debug.
        pub image_type: String,
    }
}
