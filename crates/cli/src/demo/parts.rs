//! What the demo is made of: Bookinfo's services and routes, the gateway, and what people can try.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::database::Database;
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

/// Sends the spans of all requests to a Zipkin on this machine.
const ZIPKIN: (&str, &str) =
    ("zipkin.yaml", include_str!("../../../../samples/bookinfo/telemetry/zipkin.yaml"));

/// What stands in the samples for an address that they cannot know.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

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
    if let Some(address) = machine_address() {
        let (name, text) = ZIPKIN;
        write(&(name, &at(text, address)))?;
    }
    MANIFESTS.iter().map(write).collect()
}

/// An address of this machine that workloads reach: that by which it would reach others. Nothing is sent.
fn machine_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((SOMEWHERE, 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The manifest with an address in the place of the one that stands for it.
fn at(manifest: &str, address: IpAddr) -> String {
    let placeholder = format!("address: {SOMEWHERE}");
    manifest.replace(&placeholder, &format!("address: {address}"))
}

/// How to see traces.
fn traces(mizzen: &str, folder: &Path) -> String {
    let manifest = folder.join(ZIPKIN.0);
    if manifest.is_file() {
        let apply = format!("{mizzen} apply -f {}", manifest.display());
        format!("are not kept here; with a Zipkin on port 9411 of this machine:\n              {apply}")
    } else {
        "are not kept here; docs/demo.md says how to see them in a Zipkin".into()
    }
}

/// The gateway first, then the services.
pub(super) fn all(bookinfo: &Path, database: &Database, folder: &Path) -> Vec<Spec> {
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
        spec.command = match *service {
            "mysqldb" => database.command(bookinfo),
            service => vec![bookinfo.into(), service.into()],
        };
        spec.environment = vec![("SERVICE_VERSION".into(), version.into())];
        spec.concurrency = Some(1);
        spec.output = Some(log(&spec.workload()));
        spec.proxy_log = log(&format!("{}-proxy", spec.workload()));
        spec
    });
    [gateway].into_iter().chain(services).collect()
}

/// What is printed once all is up.
pub(super) fn welcome(
    port: u16,
    console: &str,
    database: &Database,
    kubeconfig: &Path,
    folder: &Path,
) -> String {
    let database = database.told();
    let mizzen = std::env::current_exe().map_or_else(|_| "mizzen".into(), |exe| exe.display().to_string());
    let traces = traces(&mizzen, folder);
    let (kubeconfig, folder) = (kubeconfig.display(), folder.display());
    format!(
        "\n  Bookinfo    http://localhost:{port}/productpage\n  \
         Console     {console}\n  \
         Database    {database}\n  \
         Logs        {folder}\n  \
         Traces      {traces}\n\n\
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
    fn spans_go_to_the_machine_s_own_address() {
        let text = at(ZIPKIN.1, [10, 1, 2, 3].into());
        assert!(text.contains("endpoints:\n  - address: 10.1.2.3\n"), "{text}");
        for object in api::yaml::documents(&text).unwrap() {
            let read = registry::manifest::object(&object);
            assert!(read.is_ok(), "{read:?}");
        }
    }

    #[test]
    fn every_service_has_a_valid_port_and_the_gateway_is_first() {
        let database = Database::Sample(String::new());
        let specs = all(Path::new("/bookinfo"), &database, Path::new("/logs"));
        assert_eq!((specs[0].kind, specs[0].labels()["istio"].as_str()), (Kind::Router, "ingressgateway"));
        assert_eq!(specs.len(), SERVICES.len() + 1);
        for spec in &specs[1..] {
            assert_eq!(spec.ports.len(), 1, "{}", spec.service);
        }
    }
}
