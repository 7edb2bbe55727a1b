//! Who listens and who is connected in this network namespace, as the kernel's tables say.
//!
//! Looking disturbs nobody: a connection made only to see whether a port answers counts against some applications.

use std::{fs, net::Ipv4Addr};

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    port: u16,
    loopback: bool,
    listens: bool,
}

/// Once all the ports are listened on: those that are so by loopback only.
pub(super) fn all_listening(ports: &[u16]) -> Option<Vec<u16>> {
    let listeners: Vec<Entry> = entries().into_iter().filter(|e| e.listens).collect();
    let on = |port: u16| listeners.iter().filter(move |e| e.port == port);
    if ports.iter().any(|&port| on(port).next().is_none()) {
        return None;
    }
    Some(ports.iter().copied().filter(|&port| on(port).all(|e| e.loopback)).collect())
}

/// Whether anybody is connected to the port.
pub(super) fn is_connected(port: u16) -> bool {
    entries().iter().any(|e| !e.listens && e.port == port)
}

fn entries() -> Vec<Entry> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.iter().filter_map(|table| fs::read_to_string(table).ok()).flat_map(|t| parse(&t)).collect()
}

fn parse(table: &str) -> Vec<Entry> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next()?, fields.nth(1)?);
            let (address, port) = local.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let loopback = if address.len() == 8 {
                let bytes = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
                Ipv4Addr::from(bytes).is_loopback()
            } else {
                // Four words, each in the host's order.
                address == format!("{:024X}{:08X}", 0, u32::from_ne_bytes([0, 0, 0, 1]))
            };
            matches!(state, LISTEN | ESTABLISHED).then_some(Entry {
                port,
                loopback,
                listens: state == LISTEN,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_connections_are_told_apart() {
        let four = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n\
            \x20  1: 00000000:2378 00000000:0000 0A 00000000:00000000 00:00000000\n\
            \x20  2: 0100007F:1F91 0100007F:0050 01 00000000:00000000 00:00000000\n\
            \x20  3: 0100007F:1F91 0100007F:0051 06 00000000:00000000 00:00000000\n";
        let six = "  sl  local_address rem_address st\n\
            \x20  0: 00000000000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A 0:0\n\
            \x20  1: 00000000000000000000000000000000:1F93 00000000000000000000000000000000:0000 0A 0:0\n";
        let found: Vec<(u16, bool, bool)> =
            [four, six].iter().flat_map(|t| parse(t)).map(|e| (e.port, e.loopback, e.listens)).collect();
        assert_eq!(
            found,
            [
                (8080, true, true),
                (9080, false, true),
                (8081, true, false),
                (8082, true, true),
                (8083, false, true)
            ]
        );
    }
}
