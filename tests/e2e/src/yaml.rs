//! Resources that scenarios write alike.

/// A DestinationRule of the service with a subset for each of these versions.
pub fn subsets(service: &str, versions: &[&str]) -> String {
    let subsets =
        versions.iter().map(|v| format!("{{name: {v}, labels: {{version: {v}}}}}")).collect::<Vec<_>>();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: default}}
spec: {{host: {service}, subsets: [{}]}}
",
        subsets.join(", ")
    )
}

/// A Gateway `door` that takes plain HTTP for all hosts.
pub fn door(port: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]
"
    )
}

/// The same, and a VirtualService that leads everything from there to a service.
pub fn door_to(port: u16, service: &str, service_port: u16) -> String {
    format!(
        "{}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: door, namespace: default}}
spec:
  hosts: ['*']
  gateways: [door]
  http: [{{route: [{{destination: {{host: {service}, port: {{number: {service_port}}}}}}}]}}]
",
        door(port)
    )
}
