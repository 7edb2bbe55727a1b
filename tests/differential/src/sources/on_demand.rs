//! Virtual hosts by VHDS, told beforehand or asked for when a request needs them.

use anyhow::{Context as _, ensure};
use proto::ResourceType as T;
use serde_json::{Value, json};

use super::{ALONE, FIRST, Form, Side, get, start};
use crate::contestant::{Kind, Place};

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3";

fn said(text: &str) -> Value {
    let action = json!({"status": 200, "body": {"inline_string": text}});
    json!([{"match": {"prefix": "/"}, "direct_response": action}])
}

/// The name of its resource is that of its table and its own.
fn host(name: &str, domain: &str, text: &str) -> Value {
    json!({"@type": T::VirtualHost.url(), "name": format!("r/{name}"), "domains": [domain], "routes": said(text)})
}

/// One that lets nobody in.
fn closed(domain: &str) -> Value {
    let mut host = host(domain, domain, "never");
    host["typed_per_filter_config"] = json!({"rbac": {"@type": format!("{RBAC}.RBACPerRoute"),
        "rbac": {"rules": {"action": "ALLOW", "policies": {}}}}});
    host
}

/// Judges before a virtual host is asked for: it has to judge again by what that says.
fn listener(side: &Side) -> Value {
    let mut listener = side.make.listener("first", FIRST);
    let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let before = json!([
        {"name": "rbac", "typed_config": {"@type": format!("{RBAC}.RBAC")}},
        {"name": "on_demand", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand"}},
        filters[0],
    ]);
    *filters = before;
    listener
}

/// The same changes and requests in both proxies.
pub async fn on_demand() -> anyhow::Result<()> {
    let Some(envoy) = testkit::peers::envoy() else { return Ok(()) };
    let _alone = ALONE.lock().await;
    let place = Place::of_this_process();
    for kind in [Kind::Envoy, Kind::Mizzen] {
        let side = start(kind, &envoy, place, Form::Delta, &[]).await?;
        let went = change(&side).await.with_context(|| format!("{kind:?}"));
        if let Err(error) = went {
            anyhow::bail!("{error:#}\n{}", side.proxy.output());
        }
        side.proxy.stop().await?;
    }
    Ok(())
}

async fn change(side: &Side) -> anyhow::Result<()> {
    side.until(FIRST, "/", Some("200 one")).await?;
    let early = || host("early", "early.example", "early");
    side.put(T::VirtualHost, &[early(), host("b.example", "b.example", "b"), closed("c.example")]).await?;
    let table = json!({
        "@type": T::Route.url(), "name": "r",
        "vhds": {"config_source": side.make.source(T::VirtualHost)},
        "virtual_hosts": [{"name": "own", "domains": ["own.example"], "routes": said("own")}],
    });
    side.put(T::Route, &[table]).await?;
    side.put(T::Listener, &[listener(side)]).await?;
    side.until(FIRST, "own.example/", Some("200 own")).await?;
    side.until(FIRST, "early.example/", Some("200 early")).await?;

    // Each is asked for by its first request, which waits.
    let first = async |authority: &str| get(&side.make.host, FIRST, &format!("{authority}/")).await;
    let expected = async |authority: &str, wanted: &str| {
        let answer = first(authority).await;
        ensure!(answer.as_deref() == Some(wanted), "{authority} is answered {answer:?}, not {wanted:?}");
        Ok(())
    };
    expected("b.example", "200 b").await?;
    expected("c.example", "403 RBAC: access denied").await?;
    expected("missing.example", "404 ").await?;
    // By its name in small letters, the port included.
    expected("missing.example:80", "404 ").await?;
    expected("B.Example", "200 b").await?;
    let (_, dump) = side.proxy.get("/config_dump").await?;
    for name in ["r/early", "r/b.example", "own"] {
        ensure!(dump.contains(&format!("\"name\": \"{name}\"")), "no {name} in {dump}");
    }

    // They are followed from then on.
    side.put(T::VirtualHost, &[early(), host("b.example", "b.example", "changed")]).await?;
    side.until(FIRST, "b.example/", Some("200 changed")).await?;
    side.until(FIRST, "c.example/", Some("404 ")).await?;
    side.put(T::VirtualHost, &[host("missing.example", "missing.example", "found")]).await?;
    side.until(FIRST, "missing.example/", Some("200 found")).await?;
    side.until(FIRST, "early.example/", Some("404 ")).await?;
    expected("own.example", "200 own").await
}
