//! What the demo is made of: Bookinfo's services and routes, the gateway, and what people can try.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::workload::{Kind, Spec};

/// Where the gateway listens in the mesh.
pub(super) const GATEWAY_PORT: u16 = 8080;

pub(super) const GATEWAY_NAMESPACE: &str = "istio-system";

/// The resources that Bookinfo starts with, in their order.
const MANIFESTS: [(&str, &str); 2] = [
    ("bookinfo-gateway.yaml", include_str!("../../../../samples/bookinfo/networking/bookinfo-gateway.yaml")),
    (
        "destination-rule-all.yaml",
        include_str!("../../../../samples/bookinfo/networking/destination-rule-all.yaml"),
    ),
];

/// What people are invited to apply.
const TO_TRY: [(&str, &str); 4] = [
    (
        "virtual-service-reviews-50-v3.yaml",
        include_str!("../../../../samples/bookinfo/networking/virtual-service-reviews-50-v3.yaml"),
    ),
    (
        "virtual-service-ratings-delay.yaml",
        include_str!("../../../../samples/bookinfo/networking/virtual-service-ratings-delay.yaml"),
    ),
    (
        "virtual-service-ratings-abort.yaml",
        include_str!("../../../../samples/bookinfo/networking/virtual-service-ratings-abort.yaml"),
    ),
    (
        "virtual-service-all-v1.yaml",
        include_str!("../../../../samples/bookinfo/networking/virtual-service-all-v1.yaml"),
    ),
];

/// Service, version, account and port of each workload.
const SERVICES: [(&str, &str, &str, &str); 8] = [
    ("productpage", "v1", "bookinfo-productpage", "http=9080"),
    ("details", "v1", "bookinfo-details", "http=9080"),
    ("reviews", "v1", "bookinfo-reviews", "http=9080"),
    ("reviews", "v2", "bookinfo-reviews", "http=9080"),
    ("reviews", "v3", "bookinfo-reviews", "http=9080"),
    ("ratings", "v1", "bookinfo-ratings", "http=9080"),
    ("ratings", "v2", "bookinfo-ratings-v2", "http=9080"),
    ("mysqldb", "v1", "mysqldb", "tcp=3306"),
];

/// Writes the manifests into the folder: those to apply are returned, those to try lie beside them.
pub(super) fn manifests(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let write = |(name, text): &(&str, &str)| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        anyhow::Ok(path)
    };
    TO_TRY.iter().try_for_each(|manifest| write(manifest).map(drop))?;
    MANIFESTS.iter().map(write).collect()
}

/// The gateway first, then the services.
pub(super) fn all(bookinfo: &Path, folder: &Path) -> Vec<Spec> {
    let log = |name: &str| folder.join(format!("{name}.log"));
    let mut gateway = Spec::sidecar("istio-ingressgateway");
    gateway.kind = Kind::Router;
    gateway.namespace = GATEWAY_NAMESPACE.into();
    gateway.labels.insert("istio".into(), "ingressgateway".into());
    gateway.proxy_log = log("istio-ingressgateway-proxy");
    let services = SERVICES.iter().map(|(service, version, account, port)| {
        let mut spec = Spec::sidecar(service);
        spec.version = Some((*version).into());
        spec.service_account = Some((*account).into());
        spec.ports = port.parse().into_iter().collect();
        spec.command = vec![bookinfo.into(), service.into()];
        spec.environment = vec![("SERVICE_VERSION".into(), version.into())];
        spec.concurrency = Some(1);
        spec.output = Some(log(&spec.workload()));
        spec.proxy_log = log(&format!("{}-proxy", spec.workload()));
        spec
    });
    [gateway].into_iter().chain(services).collect()
}

/// What is printed once all is up.
pub(super) fn welcome(port: u16, console: Option<&str>, kubeconfig: &Path, folder: &Path) -> String {
    let console = console.unwrap_or("`mizzen dashboard` opens it");
    let mizzen = std::env::current_exe().map_or_else(|_| "mizzen".into(), |exe| exe.display().to_string());
    let (kubeconfig, folder) = (kubeconfig.display(), folder.display());
    format!(
        "\n  Bookinfo    http://localhost:{port}/productpage\n  \
         Console     {console}\n  \
         Logs        {folder}\n\n\
         Five things to try, in another terminal:\n\n  \
         export KUBECONFIG={kubeconfig}\n\n  \
         1. half of the reviews with red stars\n     {mizzen} apply -f {folder}/virtual-service-reviews-50-v3.yaml\n  \
         2. slow ratings, for jason only\n     {mizzen} apply -f {folder}/virtual-service-ratings-delay.yaml\n  \
         3. why a request goes where it goes\n     {mizzen} explain --from productpage http://reviews:9080/reviews/0\n  \
         4. who is connected, and is their configuration current\n     {mizzen} proxy-status\n  \
         5. a workload of your own\n     {mizzen} run --service hello --port http=8000 -- python3 -m http.server 8000\n\n\
         Ctrl-C ends everything.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_valid_port_and_the_gateway_is_first() {
        let specs = all(Path::new("/bookinfo"), Path::new("/logs"));
        assert_eq!((specs[0].kind, specs[0].labels()["istio"].as_str()), (Kind::Router, "ingressgateway"));
        assert_eq!(specs.len(), SERVICES.len() + 1);
        for spec in &specs[1..] {
            assert_eq!(spec.ports.len(), 1, "{}", spec.service);
        }
    }
}
