//! Scenario 5: nobody waits longer than configured, and nobody works for nobody.

use anyhow::ensure;
use e2e::serve::What;
use e2e::{Mesh, until};

use super::PATIENCE;

/// After 500 ms the caller has a 504 with the flag `UT`, and the application sees its call cancelled, in either version
/// of HTTP.
pub(crate) fn cancel_the_call() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.log_requests()?;
    let plain = mesh.serve("plain", "v1", "plain")?;
    let second = mesh.serve_with("second", "v1", "second", &["--port", "http2=9080"])?;
    for (replica, version) in [(&plain, None), (&second, Some("--http2"))] {
        let service = replica.name();
        let url = format!("http://{service}:9080/slow");
        mesh.until_answers(&url)?;
        // Far longer than the scenario takes: only a cancelled call ends.
        replica.behave("delay=60000")?;
        mesh.apply_and_wait(&timeout(service), "virtualservice", service)?;
        let load = ["--url", &url, "--count", "1", "--connections", "1"].into_iter().chain(version);
        let caller = format!("caller-of-{service}");
        let report = mesh.load_as(&caller, &[], &load.collect::<Vec<_>>())?;
        ensure!(
            report.status(504) == 1 && report.last_failure == "upstream request timeout",
            "{service}: {report:?}"
        );
        let waited = report.slowest_ms;
        // A stock Envoy's timers round to milliseconds.
        ensure!((495..2000).contains(&waited), "{service}: the timeout came after {waited} ms: {report:?}");
        let logged = mesh.logged(&caller);
        let told = logged.iter().all(|request| {
            request.code == 504
                && request.flags.as_deref() == Some("UT")
                && request.details.as_deref() == Some("response_timeout")
        });
        ensure!(logged.len() == 1 && told, "{service}: {logged:?}");
        until("the call is cancelled at the application", PATIENCE, || {
            let cancelled = replica.events().iter().filter(|event| event.what == What::Cancelled).count();
            (cancelled == 1).then_some(())
        })?;
        // The connection is good for the next call.
        replica.behave("")?;
        let report = mesh.load(&["--url", &url, "--count", "4"])?;
        ensure!(report.ok() == 4, "{service}: {report:?}");
    }
    Ok(())
}

fn timeout(service: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: default}}
spec:
  hosts: [{service}]
  http: [{{route: [{{destination: {{host: {service}}}}}], timeout: 500ms}}]
"
    )
}
