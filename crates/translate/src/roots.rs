//! The roots that workloads trust, for their agents: sent when they change, so that nobody waits for a renewal.

use model::Key;
use proto::Resource;
use proto::istio::ProxyConfig;

use crate::build::Context;
use crate::translator::resource;

/// The name of the one resource of the type.
const NAME: &str = "ProxyConfig";

pub(crate) fn all(context: &Context<'_>) -> Vec<Resource> {
    let roots = context.reader.read(Key::Roots).roots();
    if roots.is_empty() {
        return Vec::new();
    }
    vec![resource(NAME, &ProxyConfig { ca_certificates_pem: vec![roots.to_string()] })]
}
