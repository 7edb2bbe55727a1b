//! The rule program as text: for `nft -f`, and for `iptables-restore` and `ip6tables-restore`.
//!
//! For review and for machines where somebody else's tool installs the rules; ours never runs one.

use std::fmt::Write;

use super::{Chain, Family, Hook, Kind, Match, Program, Protocol, Rule, Verdict};

/// What `nft -f` reads.
pub fn nft(program: &Program) -> String {
    let mut text = format!("table inet {} {{\n", program.table);
    for chain in &program.chains {
        let (kind, priority) = match chain.kind {
            Kind::Nat => ("nat", -100),
            Kind::Filter => ("filter", 0),
        };
        let hook = if chain.hook == Hook::Output { "output" } else { "prerouting" };
        let _ = writeln!(text, "  chain {} {{\n    type {kind} hook {hook} priority {priority};", chain.name);
        for rule in &chain.rules {
            let _ = writeln!(text, "    {}", nft_rule(rule));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

fn nft_rule(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(nft_match).collect();
    words.push(match rule.verdict {
        Verdict::Return => "return".into(),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Reject => "reject with icmpx admin-prohibited".into(),
    });
    format!("{} comment \"{}\"", words.join(" "), rule.why)
}

fn nft_match(condition: &Match) -> String {
    let ip = |family| if family == Family::V4 { "ip" } else { "ip6" };
    match condition {
        Match::Protocol(protocol) => format!("meta l4proto {}", name(*protocol)),
        Match::Loopback => "oifname \"lo\"".into(),
        Match::Source(cidr) => format!("{} saddr {cidr}", ip(cidr.family())),
        Match::Destination(cidr) => format!("{} daddr {cidr}", ip(cidr.family())),
        Match::NotDestination(cidr) => format!("{} daddr != {cidr}", ip(cidr.family())),
        Match::Port(protocol, port) => format!("{} dport {port}", name(*protocol)),
        Match::NotPort(protocol, port) => format!("{} dport != {port}", name(*protocol)),
        Match::User(id) => format!("meta skuid {id}"),
        Match::Group(id) => format!("meta skgid {id}"),
        Match::Mark(mark) => format!("meta mark {mark:#x}"),
    }
}

/// What `iptables-restore` (or, for IPv6, `ip6tables-restore`) reads.
pub fn iptables(program: &Program, family: Family) -> String {
    let mut text = String::new();
    for (kind, table) in [(Kind::Nat, "nat"), (Kind::Filter, "filter")] {
        let chains: Vec<&Chain> = program.chains.iter().filter(|c| c.kind == kind).collect();
        if chains.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        for chain in &chains {
            let _ = writeln!(text, ":{} - [0:0]", own(chain));
        }
        for chain in &chains {
            let hook = if chain.hook == Hook::Output { "OUTPUT" } else { "PREROUTING" };
            let _ = writeln!(text, "-A {hook} -j {}", own(chain));
            for rule in chain.rules.iter().filter(|r| r.family().is_none_or(|f| f == family)) {
                let _ = writeln!(text, "-A {} {}", own(chain), iptables_rule(rule, family));
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

fn own(chain: &Chain) -> String {
    format!("MIZZEN_{}", chain.name.to_uppercase())
}

fn iptables_rule(rule: &Rule, family: Family) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(iptables_match).collect();
    words.push(match (rule.verdict, family) {
        (Verdict::Return, _) => "-j RETURN".into(),
        (Verdict::Redirect(port), _) => format!("-j REDIRECT --to-ports {port}"),
        (Verdict::Reject, Family::V4) => "-j REJECT --reject-with icmp-admin-prohibited".into(),
        (Verdict::Reject, Family::V6) => "-j REJECT --reject-with icmp6-adm-prohibited".into(),
    });
    words.join(" ")
}

fn iptables_match(condition: &Match) -> String {
    match condition {
        Match::Protocol(protocol) => format!("-p {}", name(*protocol)),
        Match::Loopback => "-o lo".into(),
        Match::Source(cidr) => format!("-s {cidr}"),
        Match::Destination(cidr) => format!("-d {cidr}"),
        Match::NotDestination(cidr) => format!("! -d {cidr}"),
        Match::Port(protocol, port) => format!("-p {} --dport {port}", name(*protocol)),
        Match::NotPort(protocol, port) => format!("-p {} ! --dport {port}", name(*protocol)),
        Match::User(id) => format!("-m owner --uid-owner {id}"),
        Match::Group(id) => format!("-m owner --gid-owner {id}"),
        Match::Mark(mark) => format!("-m mark --mark {mark:#x}"),
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
