//! The rule program as nf_tables netlink messages, one transaction: all of it holds or none.

use std::net::IpAddr;

use super::{Chain, Cidr, Family, Hook, Kind, Match, Program, Protocol, Rule, Verdict};
use crate::netlink::{APPEND, CREATE, Error, Message, Socket};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DEL_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const FAMILY_INET: u8 = 1;

const META_MARK: u32 = 3;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_SKGID: u32 = 11;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const NFT_RETURN: i32 = -5;

/// Installs the program in the network namespace of the calling thread.
pub fn install(program: &Program) -> Result<(), Error> {
    Socket::netfilter()?.batch(messages(program))
}

/// Removes the program's table from the network namespace of the calling thread.
pub fn remove(program: &Program) -> Result<(), Error> {
    let table = Message::new(format!("remove the table {}", program.table), DEL_TABLE, 0)
        .raw(&generic(0))
        .text(1, &program.table);
    Socket::netfilter()?.batch(transaction(vec![table]))
}

fn messages(program: &Program) -> Vec<Message> {
    let table = Message::new(format!("add the table {}", program.table), NEW_TABLE, CREATE)
        .raw(&generic(0))
        .text(1, &program.table);
    let chains = program.chains.iter().map(|c| chain(&program.table, c));
    let rules = program.chains.iter().flat_map(|c| c.rules.iter().map(|r| rule(&program.table, c.name, r)));
    transaction([table].into_iter().chain(chains).chain(rules).collect())
}

fn transaction(messages: Vec<Message>) -> Vec<Message> {
    let bracket = |kind| Message::unacknowledged("a transaction", kind).raw(&generic(SUBSYSTEM));
    [bracket(BATCH_BEGIN)].into_iter().chain(messages).chain([bracket(BATCH_END)]).collect()
}

/// Family, version, resource.
fn generic(resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [if resource == 0 { FAMILY_INET } else { 0 }, 0, high, low]
}

fn chain(table: &str, chain: &Chain) -> Message {
    let hook: u32 = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    let (kind, priority) = match chain.kind {
        Kind::Nat => ("nat", -100i32),
        Kind::Filter => ("filter", 0),
    };
    Message::new(format!("add the {kind} chain {}", chain.name), NEW_CHAIN, CREATE)
        .raw(&generic(0))
        .text(1, table)
        .text(3, chain.name)
        .nested(4, |m| m.big(1, hook).big(2, priority.cast_unsigned()))
        .text(7, kind)
}

fn rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut comment = vec![0, u8::try_from(rule.why.len() + 1).unwrap_or(u8::MAX)];
    comment.extend_from_slice(rule.why.as_bytes());
    comment.push(0);
    Message::new(format!("add a rule to {chain} ({})", rule.why), NEW_RULE, CREATE | APPEND)
        .raw(&generic(0))
        .text(1, table)
        .text(2, chain)
        .nested(4, |m| {
            let m = match rule.family() {
                Some(family) => family_is(m, family),
                None => m,
            };
            let m = rule.matches.iter().fold(m, matched);
            verdict(m, rule.verdict)
        })
        .attribute(7, &comment)
}

fn family_is(m: Message, family: Family) -> Message {
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    compare(meta(m, META_NFPROTO), CMP_EQ, &[number])
}

fn matched(m: Message, condition: &Match) -> Message {
    match condition {
        Match::Protocol(protocol) => transport(m, *protocol),
        Match::Loopback => {
            let mut name = [0; 16];
            name[..2].copy_from_slice(b"lo");
            compare(meta(m, META_OIFNAME), CMP_EQ, &name)
        }
        Match::Source(cidr) => network(m, 12, 8, *cidr, CMP_EQ),
        Match::Destination(cidr) => network(m, 16, 24, *cidr, CMP_EQ),
        Match::NotDestination(cidr) => network(m, 16, 24, *cidr, CMP_NEQ),
        Match::Port(protocol, port) => destination_port(transport(m, *protocol), CMP_EQ, *port),
        Match::NotPort(protocol, port) => destination_port(transport(m, *protocol), CMP_NEQ, *port),
        Match::User(id) => compare(meta(m, META_SKUID), CMP_EQ, &id.to_ne_bytes()),
        Match::Group(id) => compare(meta(m, META_SKGID), CMP_EQ, &id.to_ne_bytes()),
        Match::Mark(mark) => compare(meta(m, META_MARK), CMP_EQ, &mark.to_ne_bytes()),
    }
}

fn verdict(m: Message, verdict: Verdict) -> Message {
    match verdict {
        Verdict::Return => expression(m, "immediate", |m| {
            m.big(1, REGISTER_VERDICT).nested(2, |m| m.nested(2, |m| m.big(1, NFT_RETURN.cast_unsigned())))
        }),
        Verdict::Redirect(port) => {
            let m = expression(m, "immediate", |m| {
                m.big(1, REGISTER_1).nested(2, |m| m.attribute(1, &port.to_be_bytes()))
            });
            expression(m, "redir", |m| m.big(1, REGISTER_1))
        }
        // "Administratively prohibited", in either family's words.
        Verdict::Reject => expression(m, "reject", |m| m.big(1, 2).attribute(2, &[3])),
    }
}

fn transport(m: Message, protocol: Protocol) -> Message {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    compare(meta(m, META_L4PROTO), CMP_EQ, &[number])
}

fn destination_port(m: Message, how: u32, port: u16) -> Message {
    compare(payload(m, BASE_TRANSPORT, 2, 2), how, &port.to_be_bytes())
}

/// Compares the address at the family's offset with the network.
fn network(m: Message, offset_v4: u32, offset_v6: u32, cidr: Cidr, how: u32) -> Message {
    let (offset, bytes) = match cidr.address() {
        IpAddr::V4(v4) => (offset_v4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (offset_v6, v6.octets().to_vec()),
    };
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    let mut m = payload(m, BASE_NETWORK, offset, length);
    if !cidr.is_host() {
        m = expression(m, "bitwise", |m| {
            m.big(1, REGISTER_1)
                .big(2, REGISTER_1)
                .big(3, length)
                .nested(4, |m| m.attribute(1, &mask(cidr.prefix(), bytes.len())))
                .nested(5, |m| m.attribute(1, &vec![0; bytes.len()]))
        });
    }
    compare(m, how, &bytes)
}

fn mask(prefix: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|byte| usize::from(prefix).saturating_sub(byte * 8).min(8))
        .map(|ones| u8::try_from(0xff00u16 >> ones & 0xff).unwrap_or(0))
        .collect()
}

fn meta(m: Message, key: u32) -> Message {
    expression(m, "meta", |m| m.big(1, REGISTER_1).big(2, key))
}

fn payload(m: Message, base: u32, offset: u32, length: u32) -> Message {
    expression(m, "payload", |m| m.big(1, REGISTER_1).big(2, base).big(3, offset).big(4, length))
}

fn compare(m: Message, how: u32, value: &[u8]) -> Message {
    expression(m, "cmp", |m| m.big(1, REGISTER_1).big(2, how).nested(3, |m| m.attribute(1, value)))
}

fn expression(m: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    m.nested(1, |m| m.text(1, name).nested(2, data))
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masks_have_as_many_ones_as_the_prefix() {
        assert_eq!(mask(0, 4), [0, 0, 0, 0]);
        assert_eq!(mask(9, 4), [0xff, 0x80, 0, 0]);
        assert_eq!(mask(32, 4), [0xff; 4]);
        assert_eq!(mask(64, 16)[7..9], [0xff, 0]);
    }
}
