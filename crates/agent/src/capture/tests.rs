use super::*;

/// What a packet looks like to the rules; the test's own reading of them.
#[derive(Clone, Copy)]
struct Packet {
    protocol: Protocol,
    loopback: bool,
    source: &'static str,
    destination: &'static str,
    port: u16,
    user: u32,
    mark: u32,
}

const APP: Packet = Packet {
    protocol: Protocol::Tcp,
    loopback: false,
    source: "10.44.0.5",
    destination: "10.96.0.7",
    port: 9080,
    user: 1000,
    mark: 0,
};

fn holds(condition: &Match, packet: &Packet) -> bool {
    let destination: IpAddr = packet.destination.parse().unwrap();
    match condition {
        Match::Protocol(protocol) => packet.protocol == *protocol,
        Match::Loopback => packet.loopback,
        Match::Source(cidr) => cidr.contains(packet.source.parse().unwrap()),
        Match::Destination(cidr) => cidr.contains(destination),
        Match::NotDestination(cidr) => {
            destination.is_ipv4() == (cidr.family() == Family::V4) && !cidr.contains(destination)
        }
        Match::Port(protocol, port) => packet.protocol == *protocol && packet.port == *port,
        Match::NotPort(protocol, port) => packet.protocol == *protocol && packet.port != *port,
        Match::User(id) | Match::Group(id) => packet.user == *id,
        Match::Mark(mark) => packet.mark == *mark,
    }
}

fn verdict(program: &Program, chain: &str, packet: &Packet) -> Verdict {
    let chain = program.chains.iter().find(|c| c.name == chain).unwrap();
    let first = chain.rules.iter().find(|r| r.matches.iter().all(|m| holds(m, packet)));
    first.map_or(Verdict::Return, |r| r.verdict)
}

#[test]
fn what_leaves_a_workload_goes_where_it_should() {
    let settings = Settings {
        exclude_outbound: vec![3306],
        exclude_networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..Settings::default()
    };
    let program = Program::sidecar(&settings);
    let (proxy, marked) = (Packet { user: PROXY_ID, ..APP }, Packet { mark: MARK, ..APP });
    let own = |packet: Packet| Packet { loopback: true, destination: "10.44.0.5", ..packet };
    let dns = |packet: Packet| Packet { port: 53, destination: "127.0.0.1", loopback: true, ..packet };
    for (name, packet, expected) in [
        ("a call", APP, Verdict::Redirect(15001)),
        (
            "a call by IPv6",
            Packet { source: "fd44::5", destination: "fd99::1", ..APP },
            Verdict::Redirect(15001),
        ),
        ("the proxy's call", proxy, Verdict::Return),
        ("the proxy's call, by mark", marked, Verdict::Return),
        ("itself", own(APP), Verdict::Return),
        ("localhost", Packet { loopback: true, destination: "127.0.0.1", ..APP }, Verdict::Return),
        ("itself through the service", own(Packet { mark: MARK, ..APP }), Verdict::Redirect(15006)),
        ("a tunnel to itself", own(Packet { mark: MARK, port: 15008, ..APP }), Verdict::Return),
        (
            "the proxy to the application",
            own(Packet { mark: MARK, source: "127.0.0.6", ..APP }),
            Verdict::Return,
        ),
        ("a look-up", dns(Packet { protocol: Protocol::Udp, ..APP }), Verdict::Redirect(15053)),
        ("a long look-up", dns(APP), Verdict::Redirect(15053)),
        ("the agent's look-up", dns(Packet { mark: MARK, ..APP }), Verdict::Return),
        ("an excluded port", Packet { port: 3306, ..APP }, Verdict::Return),
        ("an excluded network", Packet { destination: "192.0.2.9", ..APP }, Verdict::Return),
        ("other UDP", Packet { protocol: Protocol::Udp, ..APP }, Verdict::Return),
    ] {
        assert_eq!(verdict(&program, "output", &packet), expected, "{name}");
    }
}

#[test]
fn a_proxy_without_the_hosts_sockets_leaves_by_the_relay() {
    let inside = vec!["10.44.0.0/16".parse().unwrap(), "fd44::/64".parse().unwrap()];
    let relay = Some(Relay { port: RELAY_PORT, inside });
    let program = Program::sidecar(&Settings { relay, ..Settings::default() });
    let marked = Packet { mark: MARK, ..APP };
    for (name, packet, expected) in [
        ("another network", Packet { destination: "192.0.2.9", ..marked }, Verdict::Redirect(RELAY_PORT)),
        ("by user id", Packet { user: PROXY_ID, ..APP }, Verdict::Redirect(RELAY_PORT)),
        ("by IPv6", Packet { destination: "2001:db8::1", ..marked }, Verdict::Redirect(RELAY_PORT)),
        ("the mesh", Packet { destination: "10.44.9.9", ..marked }, Verdict::Return),
        ("the mesh by IPv6", Packet { destination: "fd44::9", ..marked }, Verdict::Return),
        ("loopback", Packet { destination: "127.0.0.1", loopback: true, ..marked }, Verdict::Return),
        ("UDP", Packet { protocol: Protocol::Udp, destination: "192.0.2.9", ..marked }, Verdict::Return),
        ("the application", Packet { destination: "192.0.2.9", ..APP }, Verdict::Redirect(15001)),
    ] {
        assert_eq!(verdict(&program, "output", &packet), expected, "{name}");
    }
}

#[test]
fn what_arrives_is_captured_but_for_readiness_and_metrics() {
    let settings = Settings { exclude_inbound: vec![22], ..Settings::default() };
    let program = Program::sidecar(&settings);
    for port in OPEN_PORTS.into_iter().chain([22]) {
        assert_eq!(verdict(&program, "prerouting", &Packet { port, ..APP }), Verdict::Return);
    }
    assert_eq!(verdict(&program, "prerouting", &APP), Verdict::Redirect(15006));
    let outbound_only = Program::sidecar(&Settings { inbound: None, ..Settings::default() });
    assert_eq!(verdict(&outbound_only, "prerouting", &APP), Verdict::Return);
}

#[test]
fn udp_that_the_mesh_cannot_carry_is_refused_at_once() {
    let inside = vec!["10.44.0.0/16".parse().unwrap()];
    let program = Program::sidecar(&Settings { udp_only_to: Some(inside), ..Settings::default() });
    let udp = Packet { protocol: Protocol::Udp, port: 123, ..APP };
    assert_eq!(verdict(&program, "refuse_udp", &udp), Verdict::Reject);
    assert_eq!(verdict(&program, "refuse_udp", &Packet { destination: "10.44.9.9", ..udp }), Verdict::Return);
    assert_eq!(verdict(&program, "refuse_udp", &APP), Verdict::Return);
}

#[test]
fn iptables_gets_only_the_rules_of_its_family() {
    let program = Program::sidecar(&Settings::default());
    let (four, six) = (text::iptables(&program, Family::V4), text::iptables(&program, Family::V6));
    assert!(four.contains("-s 127.0.0.6 -o lo -j RETURN") && !four.contains("::6"), "{four}");
    assert!(six.contains("-s ::6 -o lo -j RETURN") && !six.contains("127.0.0.6"), "{six}");
    assert!(four.ends_with("-A MIZZEN_OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"), "{four}");
}
