//! `mizzen gateway`: a proxy at the mesh's edge, reached by ports of this machine.
//!
//! What it serves is said by Gateway and VirtualService resources that select its labels. It runs until it is
//! interrupted.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    str::FromStr,
    sync::Arc,
};

use agent::host::{Hub, Launcher};
use anyhow::bail;

use crate::{
    GlobalArgs,
    run::{Signals, registry},
    workload::{
        DOOR, DOOR_PORT, Door, Inside, JoinFile, Kind, Mesh, MeshObjects, Port, ProxyArgs, Registry, Running,
        Spec, ensure_namespace, programs,
    },
};

/// Istio's names, which Gateway resources of samples and tutorials select.
const NAME: &str = "istio-ingressgateway";
const NAMESPACE: &str = "istio-system";

#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// Its name; the label `istio` is the same without `istio-` in front
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// A port of this machine that leads to a port of the gateway: 8080, 80=8080, 192.0.2.1:443=8443
    #[arg(long = "listen", value_name = "[ADDRESS:]PORT[=PORT]")]
    listen: Vec<Listen>,
    /// A port of the gateway's Service, which is made if there is one and the Service is absent: http=80:8080
    #[arg(long = "port", value_name = "NAME=PORT[:PORT]")]
    ports: Vec<Port>,
    /// It is the door of its network: workloads of other networks reach those of this one at this address, port 15443
    #[arg(long, value_name = "ADDRESS", requires = "network")]
    door: Option<IpAddr>,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// A port of this machine, and the gateway's that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listen {
    address: SocketAddr,
    target: u16,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not of the form [ADDRESS:]PORT[=PORT], like 8080 or 0.0.0.0:80=8080");
        let (here, there) = text.split_once('=').map_or((text, None), |(here, there)| (here, Some(there)));
        let address = match here.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let port = here.parse().map_err(|_| wrong())?;
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
            }
        };
        let target = there.map_or(Ok(address.port()), |port| port.parse().map_err(|_| wrong()))?;
        if target == 0 { Err(wrong()) } else { Ok(Self { address, target }) }
    }
}

pub(crate) fn execute(args: &GatewayArgs) -> anyhow::Result<ExitCode> {
    runtime::logging::init(runtime::logging::Format::Text, "warn");
    crate::block_on(run(args))
}

fn spec(args: &GatewayArgs, join: Option<&JoinFile>) -> anyhow::Result<Spec> {
    let mut spec = Spec::sidecar(&args.name);
    spec.kind = Kind::Router;
    spec.namespace = args.global.namespace().unwrap_or(NAMESPACE).into();
    let kind = match args.door {
        Some(_) => DOOR,
        None => args.name.strip_prefix("istio-").unwrap_or(&args.name),
    };
    spec.labels = BTreeMap::from([("istio".to_owned(), kind.to_owned())]);
    spec.ports.clone_from(&args.ports);
    args.proxy.describe(&mut spec, join)?;
    spec.proxy_log = args.proxy.log_of(&args.name);
    Ok(spec)
}

async fn run(args: &GatewayArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // First, since a port in use is the commonest obstacle.
    let mut doors = Vec::new();
    let door =
        args.door.map(|address| Listen { address: SocketAddr::new(address, DOOR_PORT), target: DOOR_PORT });
    for listen in args.listen.iter().copied().chain(door) {
        doors.push((Door::open(listen.address).await?, listen));
    }
    let join = args.proxy.join_file()?;
    let spec = spec(args, join.as_ref())?;
    let mesh = Mesh {
        registry: registry(join, &args.global).await?,
        launcher: Launcher::default(),
        proxy: programs::find(&["mizzen-proxy"])?.remove(0),
    };
    if let Registry::Api(client) = &mesh.registry {
        ensure_namespace(client.clone(), &spec.namespace).await?;
        if let (Some(address), Some(network)) = (args.door, &args.proxy.who.network) {
            let objects = MeshObjects::new(client.clone(), &spec.namespace);
            objects.ensure_door(&args.name, network, &address.to_string()).await?;
        }
    }
    let mut running = tokio::select! {
        running = Running::prepare(&mesh, spec) => running?,
        () = signals.end() => bail!("interrupted before the gateway was ready"),
    };
    let hub = Arc::new(Hub::join(&mesh.launcher)?);
    let address = running.address;
    let mut led = Vec::new();
    for (door, listen) in doors {
        led.push(
            door.lead_to(Inside { hub: Arc::clone(&hub), address: SocketAddr::new(address, listen.target) }),
        );
        println!("{} listens on {} for its port {}", args.name, listen.address, listen.target);
    }
    let outcome = async {
        running.start().await?;
        running.ended().await
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome.map(|_| ExitCode::SUCCESS),
        () = signals.end() => Ok(ExitCode::SUCCESS),
    };
    // No new connections; those that are open are drained by the proxy.
    drop(led);
    running.end().await?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_this_machine_lead_to_ports_of_the_gateway() {
        let listen = |address: &str, target| Ok(Listen { address: address.parse().unwrap(), target });
        assert_eq!("8080".parse(), listen("127.0.0.1:8080", 8080));
        assert_eq!("80=8080".parse(), listen("127.0.0.1:80", 8080));
        assert_eq!("0.0.0.0:80=8080".parse(), listen("0.0.0.0:80", 8080));
        assert_eq!("[::1]:443=8443".parse(), listen("[::1]:443", 8443));
        for wrong in ["", "x", "80=", "=80", "80=x", "80=0", "::1:80", "1.2.3.4=80", "70000"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
